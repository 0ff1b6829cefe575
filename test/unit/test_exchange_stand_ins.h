/* SPDX-License-Identifier: ISC */
/*
 * Stand-ins for functions of OpenSSL, found before its own, and for those of tls_aead.c: they count
 * their calls, one of these fails when told to, and they note which memory has secrets. Hidden, so
 * that they do so only for calls of the module itself. Included by test_exchange.c alone.
 */
#ifndef TEST_EXCHANGE_STAND_INS_H
#define TEST_EXCHANGE_STAND_INS_H

#define HIDDEN __attribute__((visibility("hidden")))

static int calls;
static int call_fails; /* the call of this number; 0: none */

/* Secrets that were in memory of the module's own, until they are wiped there. */
static struct {
	const uint8_t *at;
	size_t len;
} exposed[8];

/* A private key in such memory; only tls_exchange_works() has to wipe one itself. */
static const uint8_t *private_at;
static bool derive_lies, derive_cuts; /* a secret has one wrong bit, or lacks its last byte */
static time_t clock_ahead;            /* of the real one */
/* The keys that a cipher or HMAC begins with are to be wiped, too. */
static bool keys_are_exposed;
static uint8_t last_wiped[64]; /* of that size */

static bool call_may_succeed(void)
{
	calls++;
	if (call_fails == 0 || --call_fails != 0)
		return true;
	raise_error();
	return false;
}

static void expose(const void *at, size_t len)
{
	for (size_t i = 0; i < COUNT(exposed); i++) {
		if (!exposed[i].at || exposed[i].at == at) {
			exposed[i].at = at;
			exposed[i].len = len;
			return;
		}
	}
	fail();
}

static void expose_key(const void *at, size_t len)
{
	if (keys_are_exposed && at)
		expose(at, len);
}

static size_t exposed_count(void)
{
	size_t n = 0;

	for (size_t i = 0; i < COUNT(exposed); i++)
		n += exposed[i].at != NULL;
	return n;
}

/* The key that a context for HMAC has; NULL for none. */
static struct {
	const EVP_MAC_CTX *ctx;
	bool zeros;
} macs[4];

static bool all_zeros(const uint8_t *p, size_t len)
{
	uint8_t any = 0;

	for (size_t i = 0; i < len; i++)
		any |= p[i];
	return any == 0;
}

static void note_mac_key(const EVP_MAC_CTX *ctx, const uint8_t *key, size_t len)
{
	for (size_t i = 0; key && i < COUNT(macs); i++) {
		if (!macs[i].ctx || macs[i].ctx == ctx) {
			macs[i].ctx = ctx;
			macs[i].zeros = all_zeros(key, len);
			return;
		}
	}
}

/* No context has the key of a connection, and no memory has its secrets. */
static void assert_forgotten(void)
{
	for (size_t i = 0; i < COUNT(macs); i++)
		assert_true(!macs[i].ctx || macs[i].zeros);
	assert_int_equal(exposed_count(), 0);
}

static void end_thread(void)
{
	tls_exchange_thread_end();
	memset(macs, 0, sizeof(macs));
}

#define STAND_IN_NOTING(type, name, params, args, failure, note)                                   \
	HIDDEN type name params                                                                    \
	{                                                                                          \
		static type(*real) params;                                                         \
                                                                                                   \
		if (!real)                                                                         \
			real = dlsym(RTLD_NEXT, #name);                                            \
		note;                                                                              \
		return call_may_succeed() ? real args : (failure);                                 \
	}
#define STAND_IN(type, name, params, args, failure)                                                \
	STAND_IN_NOTING(type, name, params, args, failure, (void)0)

STAND_IN(EVP_PKEY_CTX *, EVP_PKEY_CTX_new_from_name,
	 (OSSL_LIB_CTX * lib, const char *name, const char *query), (lib, name, query), NULL)
STAND_IN(int, EVP_PKEY_fromdata_init, (EVP_PKEY_CTX * ctx), (ctx), 0)
STAND_IN(int, EVP_PKEY_fromdata,
	 (EVP_PKEY_CTX * ctx, EVP_PKEY **key, int selection, OSSL_PARAM *params),
	 (ctx, key, selection, params), 0)
STAND_IN(EVP_PKEY_CTX *, EVP_PKEY_CTX_new, (EVP_PKEY * key, ENGINE *e), (key, e), NULL)
STAND_IN(int, EVP_PKEY_derive_init, (EVP_PKEY_CTX * ctx), (ctx), 0)
STAND_IN(int, EVP_PKEY_derive_set_peer, (EVP_PKEY_CTX * ctx, EVP_PKEY *peer), (ctx, peer), 0)
STAND_IN_NOTING(int, EVP_PKEY_get_octet_string_param,
		(const EVP_PKEY *key, const char *part, unsigned char *to, size_t size,
		 size_t *len),
		(key, part, to, size, len), 0,
		private_at = strcmp(part, "priv") == 0 ? to : private_at)
STAND_IN(EVP_CIPHER_CTX *, EVP_CIPHER_CTX_new, (void), (), NULL)
STAND_IN_NOTING(int, EVP_EncryptInit_ex,
		(EVP_CIPHER_CTX * ctx, const EVP_CIPHER *cipher, ENGINE *e,
		 const unsigned char *key, const unsigned char *iv),
		(ctx, cipher, e, key, iv), 0, expose_key(key, 32))
STAND_IN_NOTING(int, EVP_DecryptInit_ex,
		(EVP_CIPHER_CTX * ctx, const EVP_CIPHER *cipher, ENGINE *e,
		 const unsigned char *key, const unsigned char *iv),
		(ctx, cipher, e, key, iv), 0, expose_key(key, 32))
STAND_IN_NOTING(int, EVP_EncryptUpdate,
		(EVP_CIPHER_CTX * ctx, unsigned char *out, int *out_len, const unsigned char *in,
		 int len),
		(ctx, out, out_len, in, len), 0, expose(in, (size_t)len))
STAND_IN(int, EVP_EncryptFinal_ex, (EVP_CIPHER_CTX * ctx, unsigned char *out, int *len),
	 (ctx, out, len), 0)
STAND_IN(EVP_MD_CTX *, EVP_MD_CTX_new, (void), (), NULL)
STAND_IN(int, EVP_DigestInit_ex, (EVP_MD_CTX * ctx, const EVP_MD *md, ENGINE *e), (ctx, md, e), 0)
STAND_IN(int, EVP_DigestUpdate, (EVP_MD_CTX * ctx, const void *data, size_t len), (ctx, data, len),
	 0)
STAND_IN(int, EVP_DigestFinal_ex, (EVP_MD_CTX * ctx, unsigned char *out, unsigned int *len),
	 (ctx, out, len), 0)
STAND_IN(EVP_MAC *, EVP_MAC_fetch, (OSSL_LIB_CTX * lib, const char *name, const char *query),
	 (lib, name, query), NULL)
STAND_IN(EVP_MAC_CTX *, EVP_MAC_CTX_new, (EVP_MAC * mac), (mac), NULL)
STAND_IN(int, EVP_MAC_CTX_set_params, (EVP_MAC_CTX * ctx, const OSSL_PARAM params[]), (ctx, params),
	 0)
STAND_IN(int, EVP_MAC_update, (EVP_MAC_CTX * ctx, const unsigned char *data, size_t len),
	 (ctx, data, len), 0)
STAND_IN(int, EVP_MAC_final, (EVP_MAC_CTX * ctx, unsigned char *out, size_t *len, size_t size),
	 (ctx, out, len, size), 0)
STAND_IN(int, RAND_bytes, (unsigned char *to, int len), (to, len), 0)
STAND_IN(int, RAND_priv_bytes, (unsigned char *to, int len), (to, len), 0)
STAND_IN(int, SSL_SESSION_set1_master_key,
	 (SSL_SESSION * session, const unsigned char *key, size_t len), (session, key, len), 0)
STAND_IN(int, SSL_SESSION_set1_ticket_appdata,
	 (SSL_SESSION * session, const void *data, size_t len), (session, data, len), 0)
STAND_IN(int, i2d_SSL_SESSION, (const SSL_SESSION *session, unsigned char **to), (session, to), 0)
STAND_IN(size_t, SSL_get_client_random, (const SSL *ssl, unsigned char *to, size_t len),
	 (ssl, to, len), (ERR_clear_error(), (size_t)0))
STAND_IN(size_t, SSL_get_server_random, (const SSL *ssl, unsigned char *to, size_t len),
	 (ssl, to, len), (ERR_clear_error(), (size_t)0))

HIDDEN int EVP_PKEY_derive(EVP_PKEY_CTX *ctx, unsigned char *secret, size_t *len)
{
	static int (*real)(EVP_PKEY_CTX *, unsigned char *, size_t *);
	int ok;

	if (!real)
		real = dlsym(RTLD_NEXT, "EVP_PKEY_derive");
	expose(secret, TLS_EXCHANGE_KEY);
	ok = call_may_succeed() ? real(ctx, secret, len) : 0;
	secret[0] ^= derive_lies;
	*len -= derive_cuts;
	return ok;
}

/* It has more parameters for other kinds of keys only. */
HIDDEN EVP_PKEY *EVP_PKEY_Q_keygen(OSSL_LIB_CTX *lib, const char *query, const char *type, ...)
{
	static EVP_PKEY *(*real)(OSSL_LIB_CTX *, const char *, const char *, ...);

	if (!real)
		real = dlsym(RTLD_NEXT, "EVP_PKEY_Q_keygen");
	return call_may_succeed() ? real(lib, query, type) : NULL;
}

/* To give a context another key in place of a secret one is no step of the handshake. */
HIDDEN int EVP_MAC_init(EVP_MAC_CTX *ctx, const unsigned char *key, size_t len,
			const OSSL_PARAM params[])
{
	static int (*real)(EVP_MAC_CTX *, const unsigned char *, size_t, const OSSL_PARAM *);

	if (!real)
		real = dlsym(RTLD_NEXT, "EVP_MAC_init");
	note_mac_key(ctx, key, len);
	if (len == TLS_TICKET_SECRET)
		expose_key(key, len);
	if (key && all_zeros(key, len))
		return real(ctx, key, len, params);
	return call_may_succeed() ? real(ctx, key, len, params) : 0;
}

HIDDEN time_t time(time_t *to)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	now.tv_sec += clock_ahead;
	if (to)
		*to = now.tv_sec;
	return now.tv_sec;
}

HIDDEN void OPENSSL_cleanse(void *at, size_t len)
{
	static void (*real)(void *, size_t);
	uint8_t *from = at;

	if (!real)
		real = dlsym(RTLD_NEXT, "OPENSSL_cleanse");
	if (len == sizeof(last_wiped))
		memcpy(last_wiped, at, len);
	for (size_t i = 0; i < COUNT(exposed); i++)
		if (exposed[i].at >= from && exposed[i].at + exposed[i].len <= from + len)
			exposed[i].at = NULL;
	if (private_at >= from && private_at < from + len)
		private_at = NULL;
	real(at, len);
}

#endif
