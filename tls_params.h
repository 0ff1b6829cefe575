/* SPDX-License-Identifier: ISC */
/*
 * ONE row per parameter. The rows yield the structs, the module parameters,
 * the run-time configuration group "tls" and the keys of tls.cfg; each row's
 * name must have its paragraph in doc/.
 *
 *   I(field, "modparam", "cfg name", default, lowest, highest, RW or RO, "help")
 *   S(field, "modparam", "cfg name", default, check, RW or RO, "help")
 *
 * A string that is empty is not set. check is a function that says what is wrong with a
 * value, see tls_param_check_f.
 */
#ifndef TLS_PARAMS_H
#define TLS_PARAMS_H

#include "core/str.h"
#include "core/cfg/cfg.h"

#include "tls_report.h"

#include <limits.h>

/* What a domain can set for itself; the module parameter is the default of all domains. */
#define TLS_DOMAIN_PARAMS(I, S)                                                                    \
	S(method, "tls_method", "method", "TLSv1.2+", tls_param_check_method, RO,                  \
	  "TLS versions that are accepted: TLSv1.2, TLSv1.2+, TLSv1.3, ...")                       \
	S(min_version, "min_version", "min_version", "", tls_param_check_version, RO,              \
	  "lowest of the versions of tls_method that is accepted")                                 \
	S(max_version, "max_version", "max_version", "", tls_param_check_version, RO,              \
	  "highest of the versions of tls_method that is accepted")                                \
	S(certificate, "certificate", "certificate", "cert.pem", NULL, RO,                         \
	  "certificate chain in PEM, the end entity's first")                                      \
	S(private_key, "private_key", "private_key", "", NULL, RO,                                 \
	  "private key in PEM; default: the certificate's file")                                   \
	S(private_key_password, "private_key_password", "private_key_password", "", NULL, RO,      \
	  "password of the private key, or file:NAME of the file that holds it")                   \
	S(certificate2, "certificate2", "certificate2", "", NULL, RO,                              \
	  "second certificate chain, with a key of another type")                                  \
	S(private_key2, "private_key2", "private_key2", "", NULL, RO,                              \
	  "its private key; default: its file")                                                    \
	S(private_key_password2, "private_key_password2", "private_key_password2", "", NULL, RO,   \
	  "password of the second private key")                                                    \
	S(ca_list, "ca_list", "ca_list", "", NULL, RO, "trusted CA certificates in PEM")           \
	S(ca_path, "ca_path", "ca_path", "", NULL, RO,                                             \
	  "directory of trusted CA certificates, named by hash")                                   \
	S(crl, "crl", "crl", "", NULL, RO,                                                         \
	  "certificate revocation lists in PEM; turns on checks of the whole chain")               \
	S(crl_check, "crl_check", "crl_check", "chain", tls_param_check_crl_check, RO,             \
	  "chain or leaf: the certificates that are looked up in the CRL")                         \
	I(verify_certificate, "verify_certificate", "verify_certificate", 0, 0, 1, RO,             \
	  "if a peer shows a certificate, its chain must verify")                                  \
	I(require_certificate, "require_certificate", "require_certificate", 0, 0, 1, RO,          \
	  "a peer must show a certificate whose chain verifies")                                   \
	S(verify_client, "verify_client", "verify_client", "off", tls_param_check_verify_client,   \
	  RO, "off, on, optional or optional_no_ca")                                               \
	I(verify_depth, "verify_depth", "verify_depth", 9, 0, 100, RO,                             \
	  "CA certificates that may stand between the peer's and a trusted one")                   \
	S(cipher_list, "cipher_list", "cipher_list", "", NULL, RO,                                 \
	  "cipher suites of TLS 1.3 (TLS_...) and older, separated by colons")                     \
	S(ciphersuites, "ciphersuites", "ciphersuites", "", NULL, RO,                              \
	  "cipher suites of TLS 1.3 (TLS_...), instead of those in cipher_list")                   \
	S(groups, "groups", "groups", "?X25519MLKEM768:?X25519:P-256:?X448:P-521:P-384", NULL, RO, \
	  "groups (curves) for key exchange, such as X25519:P-256")                                \
	S(signature_algorithms, "signature_algorithms", "signature_algorithms", "", NULL, RO,      \
	  "signature algorithms, such as ecdsa_secp256r1_sha256:rsa_pss_rsae_sha256")              \
	I(security_level, "security_level", "security_level", -1, -1, 5, RO,                       \
	  "security level of OpenSSL, -1: the library's own")                                      \
	S(alpn, "alpn", "alpn", "", NULL, RO,                                                      \
	  "application protocols (ALPN), such as sip/2,http/1.1")                                  \
	I(session_tickets, "session_tickets", "session_tickets", 1, 0, 16, RO,                     \
	  "session tickets that a client gets in TLS 1.3; 0: none in any version")                 \
	S(ocsp_response, "ocsp_response", "ocsp_response", "", NULL, RO,                           \
	  "OCSP response about the certificate in DER, for clients that ask")                      \
	S(ocsp_response2, "ocsp_response2", "ocsp_response2", "", NULL, RO,                        \
	  "OCSP response about the second certificate")                                            \
	S(verify_name, "verify_name", "verify_name", "off", tls_param_check_verify_name, RO,       \
	  "off, sip (RFC 5922) or host (RFC 9525): the peer's certificate must hold its name")     \
	S(verify_names, "verify_names", "verify_names", "", NULL, RO,                              \
	  "names that verify_name accepts; default for a client: the name that it asks for")       \
	S(server_name, "server_name", "server_name", "", tls_param_check_server_name, RO,          \
	  "name that a server section is for, or that a client asks for (SNI)")                    \
	I(server_name_mode, "server_name_mode", "server_name_mode", 0, 0, 2, RO,                   \
	  "0: that name, 1: also its subdomains, 2: only these")                                   \
	S(server_id, "server_id", "server_id", "", NULL, RO,                                       \
	  "name by which routes choose a client section")                                          \
	I(refuse_unknown_name, "refuse_unknown_name", "refuse_unknown_name", 0, 0, 1, RO,          \
	  "refuse a client that asks for a name that no section has")

/* What holds for the whole module. */
#define TLS_GLOBAL_PARAMS(I, S)                                                                    \
	I(send_timeout, "send_timeout", "send_timeout", 120, 1, TLS_PARAM_MAX_SECONDS, RW,         \
	  "seconds without progress after which a connection that cannot send is closed")          \
	I(handshake_timeout, "handshake_timeout", "handshake_timeout", 120, 1,                     \
	  TLS_PARAM_MAX_SECONDS, RW, "seconds from the connection's start to the handshake's end") \
	I(connection_timeout, "connection_timeout", "connection_timeout", 600, -1,                 \
	  TLS_PARAM_MAX_SECONDS, RW, "seconds after which an idle connection is closed, -1 never") \
	I(disable_compression, "tls_disable_compression", "disable_compression", 1, 0, 1, RO,      \
	  "TLS compression is not offered")                                                        \
	I(log, "tls_log", "log", 3, 0, 1000, RW, "log level of established connections")           \
	I(debug, "tls_debug", "debug", 3, 0, 1000, RW, "accepted, without effect")                 \
	I(low_mem_threshold1, "low_mem_threshold1", "low_mem_threshold1", -1, -1,                  \
	  TLS_PARAM_MAX_KB, RW, "KB of free shared memory below which connections are refused")    \
	I(low_mem_threshold2, "low_mem_threshold2", "low_mem_threshold2", -1, -1,                  \
	  TLS_PARAM_MAX_KB, RW, "KB of free shared memory below which operations fail")            \
	I(force_run, "tls_force_run", "force_run", 0, INT_MIN, INT_MAX, RO,                        \
	  "start although a check of the OpenSSL library failed")                                  \
	S(config, "config", "config", "", NULL, RW, "file or directory of per-domain settings")    \
	I(session_cache, "session_cache", "session_cache", 0, 0, 1, RO,                            \
	  "keep sessions of TLS 1.2 and older for resumption by session id")                       \
	S(session_id, "session_id", "session_id", "tls.so", tls_param_check_session_id, RO,        \
	  "context that a resumed session must have been made in")                                 \
	S(session_ticket_keys, "session_ticket_keys", "session_ticket_keys", "", NULL, RO,         \
	  "file of keys for session tickets that several machines share")                          \
	S(event_callback, "event_callback", "event_callback", "", NULL, RO,                        \
	  "KEMI function that is called when a connection is established")                         \
	S(xavp_cfg, "xavp_cfg", "xavp_cfg", "", NULL, RO,                                          \
	  "name of the XAVP whose server_name and server_id are for the next connection")          \
	I(send_close_notify, "send_close_notify", "send_close_notify", 1, 0, 1, RW,                \
	  "send close_notify before a connection is closed")                                       \
	I(con_ct_wq_max, "con_ct_wq_max", "con_ct_wq_max", 65536, 1024, INT_MAX, RW,               \
	  "bytes of clear text that may wait for one connection's handshake")                      \
	I(ct_wq_max, "ct_wq_max", "ct_wq_max", 10485760, 1024, INT_MAX, RW,                        \
	  "bytes of clear text that may wait in all")                                              \
	I(ct_wq_blk_size, "ct_wq_blk_size", "ct_wq_blk_size", 4096, 1, INT_MAX, RW,                \
	  "accepted, without effect: waiting clear text takes what it needs")                      \
	I(ssl_release_buffers, "ssl_release_buffers", "ssl_release_buffers", 1, -1, 1, RO,         \
	  "free OpenSSL's buffers while a connection that the engine holds is idle")               \
	I(ssl_freelist_max, "ssl_freelist_max_len", "ssl_free_list_max", 0, -1, 1 << 30, RO,       \
	  "accepted, without effect: OpenSSL has no such lists any more")                          \
	I(ssl_read_ahead, "ssl_read_ahead", "ssl_read_ahead", 0, -1, 1, RO,                        \
	  "accepted, without effect: the module reads ahead by itself")                            \
	I(ssl_max_send_fragment, "ssl_max_send_fragment", "ssl_max_send_fragment", -1, -1, 16384,  \
	  RO, "bytes of clear text in one record")                                                 \
	I(key_update_records, "key_update_records", "key_update_records", 1 << 24, 1, 1 << 24, RO, \
	  "TLS 1.3 records sealed with one key before it is updated")                              \
	I(key_password_mode, "key_password_mode", "key_password_mode", 0, 0, 1, RO,                \
	  "1: ask for missing passwords of private keys on the terminal at start")                 \
	I(keylog_mode, "keylog_mode", "keylog_mode", 0, 0, 2047, RW,                               \
	  "sum of 1 (init), 2 (active), 4 (log), 8 (file), 16 (UDP peer), 1024 (filter)")          \
	S(keylog_file, "keylog_file", "keylog_file", "", NULL, RO,                                 \
	  "file that the keys of new connections are appended to")                                 \
	S(keylog_peer, "keylog_peer", "keylog_peer", "", NULL, RO,                                 \
	  "address:port that the keys of new connections are sent to by UDP")                      \
	I(renegotiation, "renegotiation", "renegotiation", 0, 0, 1, RO,                            \
	  "accepted, without effect: renegotiation is always refused")                             \
	S(rand_engine, "rand_engine", "rand_engine", "", tls_param_check_rand_engine, RO,          \
	  "accepted, without effect: OpenSSL's own random generator is used")                      \
	S(engine, "engine", "engine", "NONE", NULL, RO, "OpenSSL engine, not supported: NONE")     \
	S(engine_config, "engine_config", "engine_config", "NONE", NULL, RO,                       \
	  "accepted, without effect: engines are not supported")                                   \
	S(engine_algorithms, "engine_algorithms", "engine_algorithms", "ALL", NULL, RO,            \
	  "accepted, without effect: engines are not supported")                                   \
	I(init_mode, "init_mode", "init_mode", 0, 0, INT_MAX, RO,                                  \
	  "accepted, without effect: OpenSSL has a process of its own")                            \
	I(provider_quirks, "provider_quirks", "provider_quirks", 0, 0, INT_MAX, RO,                \
	  "accepted, without effect: OpenSSL has a process of its own")                            \
	S(provider_quirks_config, "provider_quirks_config", "provider_quirks_config", "", NULL,    \
	  RO, "accepted, without effect: OpenSSL has a process of its own")                        \
	I(engine_threads, "engine_threads", "engine_threads", 0, 0, 256, RO,                       \
	  "threads of the engine process, 0: one per processor")                                   \
	I(engine_timeout, "engine_timeout", "engine_timeout", 5000, 100, 60000, RW,                \
	  "milliseconds that a process waits for an answer of the engine")

#define TLS_ALL_PARAMS(I, S)                                                                       \
	TLS_DOMAIN_PARAMS(I, S)                                                                    \
	TLS_GLOBAL_PARAMS(I, S)

/* Second names of module parameters: A("name", field). */
#define TLS_PARAM_ALIASES(A) A("private", private_key) /* the specification's example 4 */

/* Second names of keys of tls.cfg; a row's names and those of the parameter are always keys. */
#define TLS_CONFIG_ALIASES(A)                                                                      \
	A("verify_cert", verify_certificate)                                                       \
	A("require_cert", require_certificate)                                                     \
	A("cert_file", certificate)                                                                \
	A("pkey_file", private_key)                                                                \
	A("pkey_password", private_key_password)                                                   \
	A("cert_file2", certificate2)                                                              \
	A("pkey_file2", private_key2)                                                              \
	A("pkey_password2", private_key_password2)                                                 \
	A("calist_file", ca_list)

/* So that any number of seconds fits the host's ticks. */
#define TLS_PARAM_MAX_SECONDS (INT_MAX / 32)
/* So that any number of KB fits a size in bytes. */
#define TLS_PARAM_MAX_KB (INT_MAX / 1024 * 1024)

/* The run-time configuration group; the name is the one that cfg_get(tls, ...) wants. */
struct cfg_group_tls {
#define TLS_I(field, param, cfg, def, lo, hi, rt, help) int field;
#define TLS_S(field, param, cfg, def, check, rt, help)  str field;
	TLS_ALL_PARAMS(TLS_I, TLS_S)
#undef TLS_I
#undef TLS_S
};

/* The settings of one domain. A string that is not set is NULL. Owner: the domain. */
struct tls_settings {
#define TLS_I(field, param, cfg, def, lo, hi, rt, help) int field;
#define TLS_S(field, param, cfg, def, check, rt, help)  char *field;
	TLS_DOMAIN_PARAMS(TLS_I, TLS_S)
#undef TLS_I
#undef TLS_S
};

/* Where a section sets them: the line in its file, 0: it does not. */
struct tls_settings_lines {
#define TLS_I(field, param, cfg, def, lo, hi, rt, help) unsigned field;
#define TLS_S(field, param, cfg, def, check, rt, help)  unsigned field;
	TLS_DOMAIN_PARAMS(TLS_I, TLS_S)
#undef TLS_I
#undef TLS_S
};

/* Module parameters are written here as the host reads its file; later the group's defaults. */
extern struct cfg_group_tls default_tls_cfg;
/* Handle of the group: the current values of the calling process. */
extern void *tls_cfg;
extern cfg_def_t tls_cfg_def[];

/* Returns what is expected ("one of a, b") when value is not that, else NULL. */
typedef const char *(*tls_param_check_f)(const char *value);
const char *tls_param_check_method(const char *value);
const char *tls_param_check_version(const char *value);
const char *tls_param_check_verify_client(const char *value);
const char *tls_param_check_session_id(const char *value);
const char *tls_param_check_crl_check(const char *value);
const char *tls_param_check_verify_name(const char *value);
const char *tls_param_check_server_name(const char *value);
const char *tls_param_check_rand_engine(const char *value);

/* Protocol versions of a tls_method value: 0 means the library's lowest or highest. */
struct tls_method {
	const char *name;
	int min, max; /* as in TLS1_2_VERSION; SSL2_VERSION for SSLv2 */
};

/* The row of a tls_method value, NULL for an unknown one. */
const struct tls_method *tls_param_method(const char *name);

/* The version of a value of min_version or max_version: TLS1_2_VERSION and the like, 0 for an
 * unknown one. */
int tls_param_version(const char *name);

/* Reports every value of cfg that is out of its row's range, naming parameter and value. */
void tls_params_check(const struct cfg_group_tls *cfg, struct tls_report *report);

/* Tells of values that cannot be honoured. An error where the operator would get less than was
 * asked for, else a warning. */
void tls_params_report_unsupported(const struct cfg_group_tls *cfg, struct tls_report *report);

/* Warns of every domain row that differs from its default: a configuration file is used instead. */
void tls_params_report_ignored(const struct cfg_group_tls *cfg, struct tls_report *report);

/* Copies the domain rows' values; returns -1 without memory. Free with tls_settings_free(). */
int tls_settings_from_cfg(struct tls_settings *settings, const struct cfg_group_tls *cfg);
void tls_settings_free(struct tls_settings *settings);

#endif
