/* SPDX-License-Identifier: ISC */
#include "tls_facts.h"

#include "tls_stream.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void tls_text_add(char *text, size_t size, const char *format, ...)
{
	size_t len = strlen(text);
	va_list args;

	va_start(args, format);
	vsnprintf(text + len, size - len, format, args);
	va_end(args);
}

/* Most handshakes succeed, so this only copies; tell_numbers() makes the text. */
void tls_offer_note(struct tls_offer *offer, SSL *ssl)
{
	unsigned version = SSL_client_hello_get0_legacy_version(ssl);
	const unsigned char *bytes;
	size_t len;

	if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_supported_versions, &bytes, &len) &&
	    len >= 3) {
		len = len - 1 < TLS_OFFER_VERSIONS ? len - 1 : TLS_OFFER_VERSIONS;
		memcpy(offer->versions, bytes + 1, len);
		offer->versions_len = (uint8_t)len;
	} else {
		offer->versions[0] = (uint8_t)(version >> 8);
		offer->versions[1] = (uint8_t)version;
		offer->versions_len = 2;
	}
	len = SSL_client_hello_get0_ciphers(ssl, &bytes);
	len = len < TLS_OFFER_SUITES ? len : TLS_OFFER_SUITES;
	memcpy(offer->suites, bytes, len);
	offer->suites_len = (uint8_t)len;
}

static void tell_numbers(char *text, size_t size, const char *name, const uint8_t *bytes,
			 size_t len)
{
	const char *before = name;

	for (size_t i = 0; i + 1 < len; i += 2) {
		if ((bytes[i] & 0x0f) == 0x0a && bytes[i] == bytes[i + 1]) /* GREASE, RFC 8701 */
			continue;
		tls_text_add(text, size, "%s%02x%02x", before, bytes[i], bytes[i + 1]);
		before = ",";
	}
}

static void tell_alert(char *text, size_t size, const char *name, int alert)
{
	char number[TLS_ALERT_TEXT];

	if (alert >= 0)
		tls_text_add(text, size, "%s%s", name, tls_alert_text(alert, number));
}

void tls_facts_tell(const struct tls_facts *facts, char *text, size_t size)
{
	const struct tls_offer *offer = facts->offer;

	if (facts->domain)
		tls_text_add(text, size, " domain=\"%s\"", facts->domain);
	tls_text_add(text, size, "%s", facts->bad_cert);
	if (facts->server_name[0])
		tls_text_add(text, size, " sni=%s", facts->server_name);
	tell_alert(text, size, " alert_sent=", facts->alert_sent);
	tell_alert(text, size, " alert_received=", facts->alert_received);
	if (!offer)
		return;
	tell_numbers(text, size, " offered=", offer->versions, offer->versions_len);
	tell_numbers(text, size, " suites=", offer->suites, offer->suites_len);
}
