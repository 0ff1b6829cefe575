/* SPDX-License-Identifier: ISC */
/*
 * Units of the ticket keys: how generated ones follow each other, what a file of them may look
 * like, and that what is sealed with a key is opened with it.
 */
#include "tls_ticket.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define IV_SIZE EVP_MAX_IV_LENGTH

/* A ticket's name and iv, a text sealed by its cipher, and the text's code by its mac. */
struct ticket {
	uint8_t name[TLS_TICKET_NAME], iv[IV_SIZE], sealed[32], code[EVP_MAX_MD_SIZE];
	size_t code_len;
};

static const uint8_t text[16] = "sixteen letters";

#if TLS_HAVE_EVP_MAC
static tls_ticket_mac *mac_new(void)
{
	EVP_MAC *hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
	EVP_MAC_CTX *mac = EVP_MAC_CTX_new(hmac);

	EVP_MAC_free(hmac);
	return mac;
}

static void mac_free(tls_ticket_mac *mac)
{
	EVP_MAC_CTX_free(mac);
}

static size_t mac_end(tls_ticket_mac *mac, uint8_t *code)
{
	size_t len = 0;

	assert_int_equal(EVP_MAC_init(mac, NULL, 0, NULL), 1);
	assert_int_equal(EVP_MAC_update(mac, text, sizeof(text)), 1);
	assert_int_equal(EVP_MAC_final(mac, code, &len, EVP_MAX_MD_SIZE), 1);
	mac_free(mac);
	return len;
}
#else
static tls_ticket_mac *mac_new(void)
{
	return HMAC_CTX_new();
}

static void mac_free(tls_ticket_mac *mac)
{
	HMAC_CTX_free(mac);
}

static size_t mac_end(tls_ticket_mac *mac, uint8_t *code)
{
	unsigned len = 0;

	assert_int_equal(HMAC_Update(mac, text, sizeof(text)), 1);
	assert_int_equal(HMAC_Final(mac, code, &len), 1);
	mac_free(mac);
	return len;
}
#endif

static void seal(struct tls_ticket_keys *keys, int64_t now, struct ticket *t)
{
	EVP_CIPHER_CTX *cipher = EVP_CIPHER_CTX_new();
	tls_ticket_mac *mac = mac_new();
	int len;

	assert_int_equal(tls_ticket_seal(keys, now, t->name, t->iv, cipher, mac), 1);
	assert_int_equal(EVP_EncryptUpdate(cipher, t->sealed, &len, text, sizeof(text)), 1);
	assert_int_equal(len, sizeof(text));
	EVP_CIPHER_CTX_free(cipher);
	t->code_len = mac_end(mac, t->code);
	assert_int_equal(t->code_len, 32);
}

/* Opens a ticket, which must give its text and code if a key is there. Returns tls_ticket_open()'s
 * answer. */
static int open_ticket(struct tls_ticket_keys *keys, int64_t now, const struct ticket *t)
{
	EVP_CIPHER_CTX *cipher = EVP_CIPHER_CTX_new();
	tls_ticket_mac *mac = mac_new();
	int result = tls_ticket_open(keys, now, t->name, t->iv, cipher, mac), len = 0;
	uint8_t plain[48], code[EVP_MAX_MD_SIZE];

	if (result > 0) {
		EVP_CIPHER_CTX_set_padding(cipher, 0);
		assert_int_equal(EVP_DecryptUpdate(cipher, plain, &len, t->sealed, sizeof(text)),
				 1);
		assert_memory_equal(plain, text, sizeof(text));
		assert_int_equal(mac_end(mac, code), t->code_len);
		assert_memory_equal(code, t->code, t->code_len);
	} else {
		mac_free(mac);
	}
	EVP_CIPHER_CTX_free(cipher);
	return result;
}

static void test_generated_keys_follow_each_other(void **state)
{
	struct tls_ticket_keys *keys = tls_ticket_keys_new();
	struct ticket tickets[40];
	const int64_t start = 1000, step = TLS_TICKET_RENEW / 4;

	(void)state;
	assert_true(tls_ticket_keys_generated(keys));
	for (int i = 0; i < 40; i++) {
		int64_t now = start + i * step;

		seal(keys, now, &tickets[i]);
		assert_int_equal(open_ticket(keys, now, &tickets[i]), 1);
		for (int j = 0; j < i; j++) {
			int64_t age = now - (start + j * step);
			int opened = open_ticket(keys, now, &tickets[j]);
			bool same_key =
				memcmp(tickets[i].name, tickets[j].name, TLS_TICKET_NAME) == 0;

			/* A ticket opens while a session may live; not for ever. */
			if (age < TLS_TICKET_LIFETIME)
				assert_int_equal(opened, same_key ? 1 : 2);
			if (age >= TLS_TICKET_LIFETIME + TLS_TICKET_RENEW)
				assert_int_equal(opened, 0);
			if (age >= TLS_TICKET_RENEW)
				assert_false(same_key);
		}
	}
	tls_ticket_keys_unref(keys);
}

static void test_a_key_ends_without_new_tickets_too(void **state)
{
	struct tls_ticket_keys *keys = tls_ticket_keys_new();
	struct ticket t;

	(void)state;
	seal(keys, 0, &t);
	assert_int_equal(open_ticket(keys, TLS_TICKET_LIFETIME, &t), 1);
	assert_int_equal(open_ticket(keys, TLS_TICKET_LIFETIME + TLS_TICKET_RENEW, &t), 0);
	tls_ticket_keys_unref(keys);
}

static void test_others_keys_do_not_open(void **state)
{
	struct tls_ticket_keys *one = tls_ticket_keys_new(), *two = tls_ticket_keys_new();
	struct ticket t;

	(void)state;
	seal(one, 5, &t);
	assert_int_equal(open_ticket(two, 5, &t), 0);
	tls_ticket_keys_ref(one);
	tls_ticket_keys_unref(one);
	assert_int_equal(open_ticket(one, 5, &t), 1);
	tls_ticket_keys_unref(one);
	tls_ticket_keys_unref(two);
}

/* ---- files ---- */

#define K16(x) x x x x x x x x x x x x x x x x
#define K1     K16("0123aBcD")
#define K2     K16("89abcdef")
#define K3     K16("00112233")

/* Writes a file and reads it; *report is to be freed. */
static struct tls_ticket_keys *read_text(const char *content, mode_t mode,
					 struct tls_report *report)
{
	char path[] = "/tmp/test-ticket-XXXXXX";
	int fd = mkstemp(path);
	struct tls_ticket_keys *keys;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, content, strlen(content)), strlen(content));
	assert_int_equal(fchmod(fd, mode), 0);
	close(fd);
	memset(report, 0, sizeof(*report));
	keys = tls_ticket_keys_read(path, report);
	unlink(path);
	return keys;
}

static void test_good_files(void **state)
{
	static const char *const files[] = {
		K1 "\n",
		K1,
		"# a comment\n\n" K1 "\r\n",
		"\t " K1 " \n" K2 "\n# " K2 "\n\n" K3,
	};

	(void)state;
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		struct tls_report report;
		struct tls_ticket_keys *keys = read_text(files[i], 0600, &report);

		assert_non_null(keys);
		assert_null(report.text);
		assert_false(tls_ticket_keys_generated(keys));
		tls_ticket_keys_unref(keys);
	}
}

static void test_bad_files(void **state)
{
	static const struct {
		const char *content, *told;
	} files[] = {
		{"", "is empty"},
		{"# nothing\n\n", "contains no key"},
		{K1 "0\n", ":1: session_ticket_keys: a key has 128 hex digits"},
		{K1 "\n" K16("1234567") "\n", ":2: session_ticket_keys: a key has 128 hex digits"},
		{"\n\n" K16("0123456g"), ":3: session_ticket_keys: a key has hex digits only"},
		{K16("00000000"), ":1: session_ticket_keys: this is no random key"},
		{K1 "\n" K2 "\n" K16("0123abcd"),
		 ":3: session_ticket_keys: this key stands in the file already"},
		{K16(K16("0123")) "\n" K1, ":1: session_ticket_keys: a key has 128 hex digits"},
		{K1 "\n" K16(K16("01234567")) "\nx\n", ":3: session_ticket_keys: a key has 128"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		struct tls_report report;

		assert_null(read_text(files[i].content, 0600, &report));
		assert_true(report.errors > 0);
		if (!strstr(report.text, files[i].told))
			fail_msg("'%s' is not told: %s", files[i].told, report.text);
		tls_report_free(&report);
	}
}

static void test_too_many_keys(void **state)
{
	char content[20 * 129 + 1] = "";
	struct tls_report report;

	(void)state;
	for (size_t i = 0; i < 17; i++)
		snprintf(content + strlen(content), sizeof(content) - strlen(content), "%02zx%s\n",
			 i, K1 + 2);
	assert_null(read_text(content, 0600, &report));
	assert_int_equal(report.errors, 1);
	assert_non_null(strstr(report.text, ":17: session_ticket_keys: there are more than 16"));
	tls_report_free(&report);
	content[16 * 129] = '\0';
	tls_ticket_keys_unref(read_text(content, 0600, &report));
	assert_null(report.text);
}

static void test_file_that_others_can_read(void **state)
{
	struct tls_report report;
	struct tls_ticket_keys *keys = read_text(K1, 0644, &report);

	(void)state;
	assert_non_null(keys);
	assert_int_equal(report.warnings, 1);
	assert_non_null(strstr(report.text, "can be read by other users"));
	tls_ticket_keys_unref(keys);
	tls_report_free(&report);
	memset(&report, 0, sizeof(report));
	assert_null(tls_ticket_keys_read("/nowhere/keys", &report));
	assert_non_null(strstr(report.text, "cannot read file '/nowhere/keys'"));
	tls_report_free(&report);
}

/* What a machine seals, another one with the same key opens, whatever else is in its file. */
static void test_files_of_two_machines(void **state)
{
	struct tls_report report;
	struct tls_ticket_keys *one = read_text(K1 "\n" K2, 0600, &report);
	struct tls_ticket_keys *two = read_text(K2 "\n" K1, 0600, &report);
	struct tls_ticket_keys *three = read_text(K3, 0600, &report);
	struct ticket t;

	(void)state;
	seal(one, 0, &t);
	assert_int_equal(open_ticket(one, INT64_C(1) << 40, &t), 1);
	assert_int_equal(open_ticket(two, 0, &t), 2);
	assert_int_equal(open_ticket(three, 0, &t), 0);
	tls_ticket_keys_unref(one);
	tls_ticket_keys_unref(two);
	tls_ticket_keys_unref(three);
}

/* ---- keys of one ticket ---- */

static bool same(const uint8_t *a, const uint8_t *b, size_t len)
{
	return memcmp(a, b, len) == 0;
}

/* Seals as another process does. */
static void seal_shared(const struct tls_exchange_ticket *p, struct ticket *t)
{
	EVP_CIPHER_CTX *cipher = EVP_CIPHER_CTX_new();
	unsigned code_len;
	int len;

	memcpy(t->name, p->name, sizeof(t->name));
	memcpy(t->iv, p->iv, sizeof(t->iv));
	assert_int_equal(EVP_EncryptInit_ex(cipher, EVP_aes_256_cbc(), NULL, p->cipher_key, p->iv),
			 1);
	assert_int_equal(EVP_EncryptUpdate(cipher, t->sealed, &len, text, sizeof(text)), 1);
	EVP_CIPHER_CTX_free(cipher);
	assert_non_null(HMAC(EVP_sha256(), p->mac_key, sizeof(p->mac_key), text, sizeof(text),
			     t->code, &code_len));
	t->code_len = code_len;
}

/* True if a ticket's code is right. */
static bool opens(struct tls_ticket_keys *keys, const struct ticket *t)
{
	EVP_CIPHER_CTX *cipher = EVP_CIPHER_CTX_new();
	tls_ticket_mac *mac = mac_new();
	uint8_t code[EVP_MAX_MD_SIZE];

	assert_int_equal(tls_ticket_open(keys, 5, t->name, t->iv, cipher, mac), 1);
	EVP_CIPHER_CTX_free(cipher);
	return mac_end(mac, code) == t->code_len && same(code, t->code, t->code_len);
}

/* Who knows the keys of one ticket knows those of no other. */
static void test_each_ticket_has_keys(void **state)
{
	struct tls_ticket_keys *keys = tls_ticket_keys_new();
	struct tls_exchange_ticket one = {.lifetime = 1}, two = one;
	struct ticket t, sealed;

	(void)state;
	seal(keys, 5, &t);
	assert_true(tls_ticket_share(keys, 5, &one));
	assert_true(tls_ticket_share(keys, 6, &two));
	assert_memory_equal(one.name, two.name, sizeof(one.name));
	assert_memory_equal(one.name, t.name, sizeof(t.name) - 1);
	assert_true(tls_ticket_is_shared(one.name) && !tls_ticket_is_shared(t.name));
	assert_false(same(one.iv, two.iv, sizeof(one.iv)));
	assert_false(same(one.cipher_key, two.cipher_key, sizeof(one.cipher_key)));
	assert_false(same(one.mac_key, two.mac_key, sizeof(one.mac_key)));
	assert_false(same(one.cipher_key, one.mac_key, sizeof(one.mac_key)));
	seal_shared(&one, &sealed);
	assert_int_equal(open_ticket(keys, 7, &sealed), 1);
	seal_shared(&two, &sealed);
	assert_int_equal(open_ticket(keys, TLS_TICKET_LIFETIME, &sealed), 1);
	/* A key is followed by another one here, too. */
	assert_true(tls_ticket_share(keys, 5 + TLS_TICKET_RENEW, &two));
	assert_false(same(one.name, two.name, sizeof(one.name)));
	assert_int_equal(open_ticket(keys, 5 + TLS_TICKET_RENEW, &sealed), 2);
	tls_ticket_keys_unref(keys);
}

/* A shared ticket that says it is none has other keys, and the other way round. */
static void test_no_ticket_changes_its_kind(void **state)
{
	struct tls_report report;
	struct tls_ticket_keys *all[] = {tls_ticket_keys_new(), read_text(K1, 0600, &report)};

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		for (int tries = 0; tries < 8; tries++) {
			struct tls_exchange_ticket t;
			struct ticket own;

			seal(all[i], 5, &own);
			assert_int_equal(open_ticket(all[i], 5, &own), 1);
			assert_true(tls_ticket_share(all[i], 5, &t));
			assert_true(tls_ticket_is_shared(t.name));
			seal_shared(&t, &own);
			assert_int_equal(open_ticket(all[i], 5, &own), 1);
			own.name[TLS_TICKET_NAME - 1] ^= 1;
			assert_false(tls_ticket_is_shared(own.name));
			assert_false(opens(all[i], &own));
		}
		tls_ticket_keys_unref(all[i]);
	}
}

/* HKDF-Expand-Label(key, "ser ticket", name + iv): as long as machines with other releases of this
 * module are to open the tickets, it stays. RFC 5869 section 2.3. */
static void test_keys_of_a_ticket(void **state)
{
	struct tls_report report;
	struct tls_ticket_keys *keys = read_text(K1, 0600, &report);
	struct tls_exchange_ticket p;
	uint8_t secret[TLS_TICKET_SECRET], info[2 + 1 + 10 + 1 + 32] = "\0\x40\x0aser ticket\x20";
	uint8_t block[32 + sizeof(info) + 1], want[64];

	(void)state;
	for (size_t i = 0; i < sizeof(secret); i++)
		secret[i] = (const uint8_t[]){0x01, 0x23, 0xab, 0xcd}[i % 4];
	assert_true(tls_ticket_share(keys, 0, &p));
	memcpy(info + 14, p.name, sizeof(p.name));
	memcpy(info + 14 + sizeof(p.name), p.iv, sizeof(p.iv));
	memcpy(block + 32, info, sizeof(info));
	block[32 + sizeof(info)] = 1;
	HMAC(EVP_sha256(), secret, sizeof(secret), block + 32, sizeof(info) + 1, want, NULL);
	memcpy(block, want, 32);
	block[32 + sizeof(info)] = 2;
	HMAC(EVP_sha256(), secret, sizeof(secret), block, sizeof(block), want + 32, NULL);
	assert_memory_equal(p.cipher_key, want, sizeof(p.cipher_key));
	assert_memory_equal(p.mac_key, want + 32, sizeof(p.mac_key));
	tls_ticket_keys_unref(keys);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_generated_keys_follow_each_other),
		cmocka_unit_test(test_a_key_ends_without_new_tickets_too),
		cmocka_unit_test(test_others_keys_do_not_open),
		cmocka_unit_test(test_good_files),
		cmocka_unit_test(test_bad_files),
		cmocka_unit_test(test_too_many_keys),
		cmocka_unit_test(test_file_that_others_can_read),
		cmocka_unit_test(test_files_of_two_machines),
		cmocka_unit_test(test_each_ticket_has_keys),
		cmocka_unit_test(test_no_ticket_changes_its_kind),
		cmocka_unit_test(test_keys_of_a_ticket),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
