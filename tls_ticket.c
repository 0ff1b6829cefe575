/* SPDX-License-Identifier: ISC */
#include "tls_ticket.h"

#include "tls_file.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#if TLS_HAVE_EVP_MAC
#include <openssl/core_names.h>
#endif

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Key, blanks around it, the end of line, and more than fits a key, to tell that it is too long. */
#define LINE_SIZE 512
/* Generated keys that may be of use at one time: one for each TLS_TICKET_RENEW of their life. */
#define GENERATED_KEYS (1 + (TLS_TICKET_LIFETIME + TLS_TICKET_RENEW - 1) / TLS_TICKET_RENEW + 1)

/* In the last byte of a ticket's name; not set in a key's. */
#define SHARED 1

struct key {
	uint8_t name[TLS_TICKET_NAME];
	uint8_t secret[TLS_TICKET_SECRET];
	int64_t made; /* of generated ones: when they began to seal */
};

/* Owner: its references. Keys of a file never change; generated ones are guarded by lock. */
struct tls_ticket_keys {
	atomic_uint refs;
	bool generated;
	EVP_CIPHER *cipher; /* to look it up for each ticket takes longer than to use it */
	pthread_mutex_t lock;
	unsigned count;
	struct key keys[TLS_TICKET_MAX_KEYS]; /* the first seals */
};

_Static_assert(TLS_TICKET_SECRET == sizeof(((struct tls_exchange_ticket *)0)->cipher_key) +
					    sizeof(((struct tls_exchange_ticket *)0)->mac_key),
	       "a key is as long as those of a ticket");
_Static_assert(GENERATED_KEYS <= TLS_TICKET_MAX_KEYS, "room for generated keys");

#if TLS_HAVE_PROVIDERS
static EVP_CIPHER *cipher_new(void)
{
	return EVP_CIPHER_fetch(NULL, "AES-256-CBC", NULL);
}

static void cipher_free(EVP_CIPHER *cipher)
{
	EVP_CIPHER_free(cipher);
}
#else
static EVP_CIPHER *cipher_new(void)
{
	return (EVP_CIPHER *)EVP_aes_256_cbc();
}

static void cipher_free(EVP_CIPHER *cipher)
{
	(void)cipher;
}
#endif

static struct tls_ticket_keys *keys_new(bool generated)
{
	struct tls_ticket_keys *keys = calloc(1, sizeof(*keys));

	if (keys)
		keys->cipher = cipher_new();
	if (!keys || !keys->cipher) {
		free(keys);
		return NULL;
	}
	atomic_init(&keys->refs, 1);
	keys->generated = generated;
	pthread_mutex_init(&keys->lock, NULL);
	return keys;
}

struct tls_ticket_keys *tls_ticket_keys_ref(struct tls_ticket_keys *keys)
{
	atomic_fetch_add(&keys->refs, 1);
	return keys;
}

void tls_ticket_keys_unref(struct tls_ticket_keys *keys)
{
	if (!keys || atomic_fetch_sub(&keys->refs, 1) != 1)
		return;
	cipher_free(keys->cipher);
	pthread_mutex_destroy(&keys->lock);
	OPENSSL_cleanse(keys, sizeof(*keys));
	free(keys);
}

bool tls_ticket_keys_generated(const struct tls_ticket_keys *keys)
{
	return keys->generated;
}

/* ---- generated keys ---- */

/* Puts a new key before the others. */
static bool renew(struct tls_ticket_keys *keys, int64_t now)
{
	struct key key = {.made = now};

	if (RAND_bytes(key.name, sizeof(key.name)) != 1 ||
	    RAND_priv_bytes(key.secret, sizeof(key.secret)) != 1)
		return false;
	key.name[TLS_TICKET_NAME - 1] &= (uint8_t)~SHARED;
	if (keys->count == GENERATED_KEYS)
		keys->count--;
	memmove(&keys->keys[1], &keys->keys[0], keys->count * sizeof(key));
	keys->keys[0] = key;
	keys->count++;
	OPENSSL_cleanse(&key, sizeof(key));
	return true;
}

static void drop_old(struct tls_ticket_keys *keys, int64_t now)
{
	while (keys->count > 0 &&
	       now - keys->keys[keys->count - 1].made >= TLS_TICKET_RENEW + TLS_TICKET_LIFETIME) {
		keys->count--;
		OPENSSL_cleanse(&keys->keys[keys->count], sizeof(keys->keys[0]));
	}
}

struct tls_ticket_keys *tls_ticket_keys_new(void)
{
	return keys_new(true);
}

/* ---- a file's keys ---- */

/* The name is the same on each machine that has the key, and gives nothing of it away. */
static bool name_key(struct key *key)
{
	static const char label[] = "session ticket key";
	uint8_t input[sizeof(label) + TLS_TICKET_SECRET], digest[EVP_MAX_MD_SIZE];
	bool ok;

	memcpy(input, label, sizeof(label));
	memcpy(input + sizeof(label), key->secret, sizeof(key->secret));
	ok = EVP_Digest(input, sizeof(input), digest, NULL, EVP_sha256(), NULL) == 1;
	memcpy(key->name, digest, sizeof(key->name));
	key->name[TLS_TICKET_NAME - 1] &= (uint8_t)~SHARED;
	OPENSSL_cleanse(input, sizeof(input));
	return ok;
}

/* Reads the digits of one line into a key. Returns what is wrong with them, or NULL. */
static const char *parse_key(const char *text, struct key *key)
{
	size_t len = strlen(text);
	bool same = true;

	if (len != 2 * sizeof(key->secret))
		return "a key has 128 hex digits";
	for (size_t i = 0; i < sizeof(key->secret); i++) {
		int high = OPENSSL_hexchar2int((unsigned char)text[2 * i]);
		int low = OPENSSL_hexchar2int((unsigned char)text[2 * i + 1]);

		if (high < 0 || low < 0)
			return "a key has hex digits only";
		key->secret[i] = (uint8_t)(high << 4 | low);
		same = same && key->secret[i] == key->secret[0];
	}
	if (same)
		return "this is no random key";
	return name_key(key) ? NULL : "its name cannot be computed";
}

static const char *add_key(struct tls_ticket_keys *keys, const char *text)
{
	struct key *key = &keys->keys[keys->count];
	const char *problem;

	if (keys->count == TLS_TICKET_MAX_KEYS)
		return "there are more than 16 keys";
	problem = parse_key(text, key);
	for (unsigned i = 0; i < keys->count && !problem; i++)
		if (memcmp(keys->keys[i].name, key->name, sizeof(key->name)) == 0)
			problem = "this key stands in the file already";
	if (!problem)
		keys->count++;
	return problem;
}

/* Cuts blanks at both ends off. */
static char *trim(char *line)
{
	size_t len = strlen(line);

	while (len > 0 && strchr(" \t\r\n", line[len - 1]))
		line[--len] = '\0';
	return line + strspn(line, " \t");
}

static void read_lines(struct tls_ticket_keys *keys, FILE *file, const char *path,
		       struct tls_report *report)
{
	char line[LINE_SIZE];
	unsigned number = 0;

	while (fgets(line, sizeof(line), file)) {
		bool cut = strlen(line) == sizeof(line) - 1 && !strchr(line, '\n');
		char *text = trim(line);
		const char *problem = NULL;

		number++;
		if (text[0] && text[0] != '#')
			problem = cut ? "a key has 128 hex digits" : add_key(keys, text);
		if (problem)
			tls_report_error(report,
					 "%s:%u: session_ticket_keys: %s, as 'openssl rand "
					 "-hex 64' makes them",
					 path, number, problem);
		for (int c = cut ? 0 : '\n'; c != '\n' && c != EOF;)
			c = fgetc(file);
	}
	if (ferror(file))
		tls_report_error(report, "session_ticket_keys: cannot read file '%s': %s", path,
				 strerror(errno));
	OPENSSL_cleanse(line, sizeof(line));
}

/* Opens the content of a file, as one in memory. */
static FILE *open_content(struct tls_file *content, const char *path, struct tls_report *report)
{
	char why[TLS_FILE_WHY];
	FILE *file = NULL;

	if (tls_file_read(path, content, why) != 0) {
		tls_report_error(report, "session_ticket_keys: %s", why);
		return NULL;
	}
	file = fmemopen(content->data, content->size, "r");
	if (!file) {
		tls_report_error(report, "out of memory");
		tls_file_free(content);
		return NULL;
	}
	setvbuf(file, NULL, _IONBF, 0); /* leaves no copy in a buffer */
	return file;
}

struct tls_ticket_keys *tls_ticket_keys_read(const char *path, struct tls_report *report)
{
	struct tls_ticket_keys *keys = keys_new(false);
	unsigned errors = report->errors;
	struct tls_file content;
	FILE *file = open_content(&content, path, report);

	if (!keys)
		tls_report_error(report, "session_ticket_keys: out of memory, or OpenSSL has no "
					 "AES-256-CBC");
	if (file && keys) {
		read_lines(keys, file, path, report);
		if (report->errors == errors && keys->count == 0)
			tls_report_error(report, "session_ticket_keys: file '%s' contains no key",
					 path);
		if (tls_file_others_can_read(path))
			tls_report_warning(
				report, "session_ticket_keys: file '%s' can be read by other users",
				path);
	}
	if (file) {
		fclose(file);
		tls_file_free(&content);
	}
	if (report->errors == errors)
		return keys;
	tls_ticket_keys_unref(keys);
	return NULL;
}

/* ---- use ---- */

/* A copy of the key that seals. */
static bool sealing_key(struct tls_ticket_keys *keys, int64_t now, struct key *key)
{
	bool ok = true;

	pthread_mutex_lock(&keys->lock);
	if (keys->generated && (keys->count == 0 || now - keys->keys[0].made >= TLS_TICKET_RENEW))
		ok = renew(keys, now);
	if (keys->generated)
		drop_old(keys, now);
	if (ok)
		*key = keys->keys[0];
	pthread_mutex_unlock(&keys->lock);
	return ok;
}

/* A copy of the key of a ticket with that name. Returns its number, or -1. */
static int opening_key(struct tls_ticket_keys *keys, int64_t now, const uint8_t *ticket_name,
		       struct key *key)
{
	uint8_t name[TLS_TICKET_NAME];
	int found = -1;

	memcpy(name, ticket_name, sizeof(name));
	name[TLS_TICKET_NAME - 1] &= (uint8_t)~SHARED;
	pthread_mutex_lock(&keys->lock);
	if (keys->generated)
		drop_old(keys, now);
	for (unsigned i = 0; i < keys->count && found < 0; i++)
		if (memcmp(keys->keys[i].name, name, TLS_TICKET_NAME) == 0)
			found = (int)i;
	if (found >= 0)
		*key = keys->keys[found];
	pthread_mutex_unlock(&keys->lock);
	return found;
}

#if TLS_HAVE_EVP_MAC
static bool init_mac(tls_ticket_mac *mac, const uint8_t *secret, size_t len)
{
	char digest[] = "SHA256";
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, (void *)secret, len),
		OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
		OSSL_PARAM_construct_end(),
	};

	return EVP_MAC_CTX_set_params(mac, params) == 1;
}
#else
static bool init_mac(tls_ticket_mac *mac, const uint8_t *secret, size_t len)
{
	return HMAC_Init_ex(mac, secret, (int)len, EVP_sha256(), NULL) == 1;
}
#endif

/* The keys of the ticket with that name and iv. */
static bool ticket_keys(const struct key *key, struct tls_exchange_ticket *t)
{
	static const char label[] = "ser ticket";
	uint8_t context[sizeof(t->name) + sizeof(t->iv)], out[TLS_TICKET_SECRET];
	bool ok;

	memcpy(context, t->name, sizeof(t->name));
	memcpy(context + sizeof(t->name), t->iv, sizeof(t->iv));
	ok = tls_kdf_expand_label(
		     TLS_PRF_SHA256, (struct tls_bytes){key->secret, sizeof(key->secret)},
		     (struct tls_bytes){label, sizeof(label) - 1},
		     (struct tls_bytes){context, sizeof(context)}, out, sizeof(out)) == 0;
	memcpy(t->cipher_key, out, sizeof(t->cipher_key));
	memcpy(t->mac_key, out + sizeof(t->cipher_key), sizeof(t->mac_key));
	OPENSSL_cleanse(out, sizeof(out));
	return ok;
}

/* All that a new ticket has of its own. */
static bool new_ticket(struct tls_ticket_keys *keys, int64_t now, uint8_t mark,
		       struct tls_exchange_ticket *t)
{
	uint8_t random[sizeof(t->iv) + sizeof(t->age_add)] = {0};
	struct key key;
	bool ok = sealing_key(keys, now, &key);

	if (!ok)
		return false;
	ok = RAND_bytes(random, sizeof(random)) == 1;
	memcpy(t->name, key.name, sizeof(t->name));
	t->name[TLS_TICKET_NAME - 1] |= mark;
	memcpy(t->iv, random, sizeof(t->iv));
	memcpy(t->age_add, random + sizeof(t->iv), sizeof(t->age_add));
	ok = ok && ticket_keys(&key, t);
	OPENSSL_cleanse(&key, sizeof(key));
	return ok;
}

bool tls_ticket_make(struct tls_ticket_keys *keys, int64_t now, struct tls_exchange_ticket *t)
{
	return new_ticket(keys, now, 0, t);
}

bool tls_ticket_share(struct tls_ticket_keys *keys, int64_t now, struct tls_exchange_ticket *t)
{
	return new_ticket(keys, now, SHARED, t);
}

bool tls_ticket_is_shared(const uint8_t *name)
{
	return name[TLS_TICKET_NAME - 1] & SHARED;
}

int tls_ticket_seal(struct tls_ticket_keys *keys, int64_t now, uint8_t *name, uint8_t *iv,
		    EVP_CIPHER_CTX *cipher, tls_ticket_mac *mac)
{
	struct tls_exchange_ticket t;
	bool ok = new_ticket(keys, now, 0, &t) &&
		  EVP_EncryptInit_ex(cipher, keys->cipher, NULL, t.cipher_key, t.iv) == 1 &&
		  init_mac(mac, t.mac_key, sizeof(t.mac_key));

	if (ok) {
		memcpy(name, t.name, sizeof(t.name));
		memcpy(iv, t.iv, sizeof(t.iv));
	}
	OPENSSL_cleanse(&t, sizeof(t));
	return ok ? 1 : -1;
}

int tls_ticket_open(struct tls_ticket_keys *keys, int64_t now, const uint8_t *name,
		    const uint8_t *iv, EVP_CIPHER_CTX *cipher, tls_ticket_mac *mac)
{
	struct tls_exchange_ticket t;
	struct key key;
	int number = opening_key(keys, now, name, &key);
	bool ok;

	if (number < 0)
		return 0;
	memcpy(t.name, name, sizeof(t.name));
	memcpy(t.iv, iv, sizeof(t.iv));
	ok = ticket_keys(&key, &t) &&
	     EVP_DecryptInit_ex(cipher, keys->cipher, NULL, t.cipher_key, t.iv) == 1 &&
	     init_mac(mac, t.mac_key, sizeof(t.mac_key));
	OPENSSL_cleanse(&t, sizeof(t));
	OPENSSL_cleanse(&key, sizeof(key));
	if (!ok)
		return -1;
	return number == 0 ? 1 : 2;
}
