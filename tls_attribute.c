/* SPDX-License-Identifier: ISC */
#define _GNU_SOURCE
#include "tls_attribute.h"

#include "tls_origin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Values that stay valid: more than one function of a route has parameters. */
#define VALUES 16

/* Where a row belongs, which says how its selects and variables are called. */
enum scope {
	OF_CONNECTION, /* @tls.WORD               $tls_NAME */
	OF_PEER,       /* @tls.peer.WORD          $tls_peer_NAME */
	OF_CERT,       /* @tls.peer|my.WORD       $tls_{peer,my}_NAME */
	OF_NAME,       /* @tls.peer|my.N.WORD     $tls_{peer,my}_{subject,issuer}_NAME */
};

struct question;

struct attribute {
	enum scope scope;
	const char *words; /* of selects, all that mean this; "": none is needed; NULL: no select */
	const char *variable; /* NULL: none; "" without the last underscore */
	enum tls_attribute_type type;
	enum tls_attribute_index indexing;
	/* Returns a text from malloc(), or NULL. x509 is there for OF_CERT and OF_NAME. */
	char *(*get)(const struct question *q);
	int arg;
};

/* What is asked, and of whom. */
struct question {
	struct tls_conn *conn;
	const struct attribute *row;
	const struct tls_x509 *x509;
	bool my, issuer, count;
	int index;
};

/* Bits of a code; the row's number is above them. */
enum {
	CODE_MY = 1,
	CODE_ISSUER = 2,
	CODE_COUNT = 4,
	CODE_ROW = 8,
};

/* ---- of the connection ---- */

/* As OpenSSL calls the versions. */
static char *get_version(const struct question *q)
{
	switch (q->conn->version) {
	case TLS_VERSION_1_3:
		return strdup("TLSv1.3");
	case TLS_VERSION_1_2:
		return strdup("TLSv1.2");
	case TLS_VERSION_1_1:
		return strdup("TLSv1.1");
	case TLS_VERSION_1_0:
		return strdup("TLSv1");
	default:
		return strdup("SSLv3");
	}
}

static char *get_cipher(const struct question *q)
{
	return strdup(tls_engine_cipher_name(q->conn->suite));
}

static char *get_description(const struct question *q)
{
	return strdup(tls_engine_cipher_description(q->conn->suite));
}

static char *number_text(int number)
{
	char *text;

	return asprintf(&text, "%d", number) < 0 ? NULL : text;
}

static char *get_bits(const struct question *q)
{
	return number_text(q->conn->suite_bits);
}

static char *get_server_name(const struct question *q)
{
	return q->conn->server_name ? strdup(q->conn->server_name) : NULL;
}

/* ---- of the peer ---- */

static char *get_verified(const struct question *q)
{
	return strdup(q->conn->verified ? "1" : "0");
}

static char *get_revoked(const struct question *q)
{
	return strdup(q->conn->verify_result == X509_V_ERR_CERT_REVOKED ? "1" : "0");
}

/* What is wrong with a certificate is told together, whichever of it ended its verification. */
static char *get_expired(const struct question *q)
{
	const struct tls_x509 *x = tls_origin_x509(q->conn->peer_cert);

	return strdup(x && !q->conn->verified &&
				      (q->conn->verify_result == X509_V_ERR_CERT_HAS_EXPIRED ||
				       tls_x509_expired(x))
			      ? "1"
			      : "0");
}

static char *get_self_signed(const struct question *q)
{
	const struct tls_x509 *x = tls_origin_x509(q->conn->peer_cert);

	return strdup(x && !q->conn->verified && tls_x509_self_signed(x) ? "1" : "0");
}

/* The peer's certificate, then its issuers up to a trusted one. */
static const struct tls_cert *cert_of_chain(const struct tls_conn *conn, int index)
{
	int count = 1 + (conn->chain ? (int)conn->chain->count : 0);

	if (!conn->verified)
		return NULL;
	if (index < 0)
		index += count;
	if (index < 0 || index >= count)
		return NULL;
	return index == 0 ? conn->peer_cert : conn->chain->cert[index - 1];
}

static char *get_chain(const struct question *q)
{
	const struct tls_x509 *x = tls_origin_x509(cert_of_chain(q->conn, q->index));

	return x ? tls_x509_pem(x) : NULL;
}

/* ---- of a certificate ---- */

static char *get_cert_version(const struct question *q)
{
	return tls_x509_version(q->x509);
}

static char *get_serial(const struct question *q)
{
	return tls_x509_serial(q->x509);
}

static char *get_not_before(const struct question *q)
{
	return tls_x509_not_before(q->x509);
}

static char *get_not_after(const struct question *q)
{
	return tls_x509_not_after(q->x509);
}

static char *get_pem(const struct question *q)
{
	return tls_x509_pem(q->x509);
}

static char *get_urlencoded(const struct question *q)
{
	return tls_x509_urlencoded(q->x509);
}

static char *get_san(const struct question *q)
{
	int count;

	if (!q->count)
		return tls_x509_san(q->x509, q->row->arg, q->index);
	count = tls_x509_san_count(q->x509, q->row->arg);
	return count < 0 ? NULL : number_text(count);
}

static char *get_name(const struct question *q)
{
	return tls_x509_name(q->x509, q->issuer, q->row->arg);
}

static char *get_line(const struct question *q)
{
	return tls_x509_name_line(q->x509, q->issuer);
}

/* ---- the rows ---- */

#define TEXT   TLS_ATTRIBUTE_TEXT, TLS_ATTRIBUTE_SINGLE
#define BOTH   TLS_ATTRIBUTE_BOTH, TLS_ATTRIBUTE_SINGLE
#define ONE_OF TLS_ATTRIBUTE_TEXT, TLS_ATTRIBUTE_INDEXED
#define NTH_OF TLS_ATTRIBUTE_TEXT, TLS_ATTRIBUTE_MUST_INDEX

/* clang-format off */
static const struct attribute rows[] = {
	{OF_CONNECTION, "", NULL, TEXT, get_description, 0},
	{OF_CONNECTION, "desc description", "description", TEXT, get_description, 0},
	{OF_CONNECTION, "version", "version", TEXT, get_version, 0},
	{OF_CONNECTION, "cipher", "cipher_info", TEXT, get_cipher, 0},
	{OF_CONNECTION, "cipher.bits", "cipher_bits", BOTH, get_bits, 0},
	{OF_CONNECTION, "server_name serverName", "peer_server_name", TEXT, get_server_name, 0},

	{OF_PEER, "verified", "verified", BOTH, get_verified, 0},
	{OF_PEER, "revoked", "revoked", BOTH, get_revoked, 0},
	{OF_PEER, "expired", "expired", BOTH, get_expired, 0},
	{OF_PEER, "self_signed", "selfsigned", BOTH, get_self_signed, 0},
	{OF_PEER, "verified_cert_chain", NULL, NTH_OF, get_chain, 0},

	{OF_CERT, "", NULL, TEXT, get_name, NID_commonName},
	{OF_CERT, "version", "version", TEXT, get_cert_version, 0},
	{OF_CERT, "sn serialNumber serial_number", "serial", TEXT, get_serial, 0},
	{OF_CERT, "not_before notBefore", "notBefore", TEXT, get_not_before, 0},
	{OF_CERT, "not_after notAfter", "notAfter", TEXT, get_not_after, 0},
	{OF_CERT, "raw_cert rawCert", "raw_cert", TEXT, get_pem, 0},
	{OF_CERT, "urlencoded_cert URLEncodedCert", "urlencoded_cert", TEXT, get_urlencoded, 0},
	{OF_CERT, "email emailAddress email_address", "san_email", ONE_OF, get_san, GEN_EMAIL},
	{OF_CERT, "host hostname dns", "san_hostname", ONE_OF, get_san, GEN_DNS},
	{OF_CERT, "uri url urn", "san_uri", ONE_OF, get_san, GEN_URI},
	{OF_CERT, "ip IPAddress ip_address", "san_ip", ONE_OF, get_san, GEN_IPADD},

	{OF_NAME, NULL, "", TEXT, get_line, 0},
	{OF_NAME, "", NULL, TEXT, get_name, NID_commonName},
	{OF_NAME, "cn commonName common_name name", "cn", TEXT, get_name, NID_commonName},
	{OF_NAME, "l localityName locality_name locality", "locality", TEXT, get_name, NID_localityName},
	{OF_NAME, "c countryName country_name country", "country", TEXT, get_name, NID_countryName},
	{OF_NAME, "st stateOrProvinceName state_or_province_name state", "state", TEXT, get_name,
	 NID_stateOrProvinceName},
	{OF_NAME, "o organizationName organization_name organization", "organization", TEXT, get_name,
	 NID_organizationName},
	{OF_NAME, "ou organizationalUnitName organizational_unit_name unit", "unit", TEXT, get_name,
	 NID_organizationalUnitName},
	{OF_NAME, "uid uniqueIdentifier unique_identifier", "uid", TEXT, get_name, NID_userId},
};
/* clang-format on */

#define ROWS (sizeof(rows) / sizeof(rows[0]))

/* ---- how they are called ---- */

/* True if the word is one of those that blanks separate, whatever its case. */
static bool is_one_of(const char *words, const str *word)
{
	size_t len;

	for (; *words; words += len) {
		words += strspn(words, " ");
		len = strcspn(words, " ");
		if ((size_t)word->len == len && strncasecmp(words, word->s, len) == 0)
			return true;
	}
	return false;
}

/* The row of that scope and word (NULL: the one without); -1 if there is none. */
static int find_row(enum scope scope, const str *word)
{
	for (size_t i = 0; i < ROWS; i++)
		if (rows[i].scope == scope && rows[i].words &&
		    (word ? is_one_of(rows[i].words, word) : rows[i].words[0] == '\0'))
			return (int)i * CODE_ROW;
	return -1;
}

static int with(int code, int bits)
{
	return code < 0 ? -1 : code | bits;
}

/* Of SANs only, by any word of their select. */
static int find_count(const str *word)
{
	int code = find_row(OF_CERT, word);

	return code >= 0 && tls_attribute_indexing(code) == TLS_ATTRIBUTE_INDEXED
		       ? with(code, CODE_COUNT)
		       : -1;
}

/* The words behind peer or my. */
static int find_in_cert(const str *words, size_t count)
{
	int code;

	if (count == 0)
		return find_row(OF_CERT, NULL);
	if (count <= 2 && is_one_of("subject subj", &words[0]))
		return find_row(OF_NAME, count == 2 ? &words[1] : NULL);
	if (count <= 2 && is_one_of("issuer", &words[0]))
		return with(find_row(OF_NAME, count == 2 ? &words[1] : NULL), CODE_ISSUER);
	if (count == 2 && is_one_of("count", &words[0]))
		return find_count(&words[1]);
	if (count != 1)
		return -1;
	code = find_row(OF_PEER, &words[0]);
	return code >= 0 ? code : find_row(OF_CERT, &words[0]);
}

int tls_attribute_of_select(const str *words, size_t count)
{
	static const str cipher_bits = STR_STATIC_INIT("cipher.bits");

	if (count == 0)
		return find_row(OF_CONNECTION, NULL);
	if (is_one_of("peer", &words[0]))
		return find_in_cert(words + 1, count - 1);
	if (is_one_of("my me myself", &words[0]))
		return with(find_in_cert(words + 1, count - 1), CODE_MY);
	if (count == 2 && is_one_of("cipher", &words[0]) && is_one_of("bits", &words[1]))
		return find_row(OF_CONNECTION, &cipher_bits);
	return count == 1 ? find_row(OF_CONNECTION, &words[0]) : -1;
}

/* Of how many certificates or names there is a variable. */
static size_t sides_of(const struct attribute *row)
{
	if (!row->variable)
		return 0;
	return row->scope == OF_NAME ? 4 : row->scope == OF_CERT ? 2 : 1;
}

/* Side 0 is the peer's subject, or what there is only one of. */
static void name_variable(const struct attribute *row, size_t side, char *name)
{
	const char *whose = side & CODE_MY ? "my_" : "peer_";
	const char *of = side & CODE_ISSUER ? "issuer" : "subject";

	snprintf(name, TLS_ATTRIBUTE_NAME, "tls_%s%s%s%s", row->scope == OF_CONNECTION ? "" : whose,
		 row->scope == OF_NAME ? of : "",
		 row->scope == OF_NAME && row->variable[0] ? "_" : "", row->variable);
}

bool tls_attribute_variable(size_t n, char name[TLS_ATTRIBUTE_NAME], int *code)
{
	for (size_t i = 0; i < ROWS; i++) {
		size_t sides = sides_of(&rows[i]);

		if (n < sides) {
			name_variable(&rows[i], n, name);
			*code = (int)(i * CODE_ROW + n);
			return true;
		}
		n -= sides;
	}
	return false;
}

int tls_attribute_of_count(bool my, const str *name)
{
	return with(find_count(name), my ? CODE_MY : 0);
}

int tls_attribute_of_line(const str *name)
{
	static const char *const lines[] = {"p_subject_line", "m_subject_line", "p_issuer_line",
					    "m_issuer_line"};

	for (int side = 0; side < 4; side++)
		for (size_t i = 0; i < ROWS; i++)
			if (rows[i].get == get_line && is_one_of(lines[side], name))
				return (int)i * CODE_ROW | side;
	return -1;
}

enum tls_attribute_index tls_attribute_indexing(int code)
{
	return code & CODE_COUNT ? TLS_ATTRIBUTE_SINGLE : rows[code / CODE_ROW].indexing;
}

/* ---- values ---- */

static char *answer(struct question *q)
{
	if (q->row->scope == OF_PEER && q->my)
		return NULL;
	if (q->row->scope == OF_CERT || q->row->scope == OF_NAME) {
		q->x509 = tls_origin_x509(q->my ? q->conn->own_cert : q->conn->peer_cert);
		if (!q->x509)
			return NULL;
	}
	return q->row->get(q);
}

/* Keeps a text as long as tls_attribute.h promises. */
static void keep(char *text)
{
	static char *kept[VALUES];
	static size_t next;

	free(kept[next]);
	kept[next] = text;
	next = (next + 1) % VALUES;
}

int tls_attribute_get(const struct sip_msg *msg, int code, int index,
		      struct tls_attribute_value *value)
{
	struct question q = {
		.conn = tls_origin_get(msg),
		.row = &rows[code / CODE_ROW],
		.my = code & CODE_MY,
		.issuer = code & CODE_ISSUER,
		.count = code & CODE_COUNT,
		.index = index,
	};
	char *text;

	if (!q.conn)
		return 1;
	text = answer(&q);
	tls_origin_put(q.conn);
	if (!text)
		return 1;
	keep(text);
	value->text = (str){text, (int)strlen(text)};
	value->type = q.count ? TLS_ATTRIBUTE_NUMBER : q.row->type;
	value->number = value->type == TLS_ATTRIBUTE_TEXT ? 0 : (int)strtol(text, NULL, 10);
	return 0;
}
