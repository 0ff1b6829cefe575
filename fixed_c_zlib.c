/* SPDX-License-Identifier: ISC */
#include "fixed_c_zlib.h"

#include "tls_compat.h"

#include <openssl/comp.h>
#include <openssl/err.h>
#include <openssl/objects.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* RFC 3749 section 2.1: DEFLATE in the format of RFC 1950. */
#define METHOD_ID 1
/* Of the range that OpenSSL lets applications use; the method has it for a moment only. */
#define PRIVATE_ID 251

/* deflate() takes 4 KB * 4 for its window and 4 * 4 KB more: the last few SIP messages. */
#define WINDOW_BITS  12
#define MEMORY_LEVEL 5
#define LEVEL        6

/* DEFLATE makes at most 1032 bytes of one, SIP of one or two dozen. Beyond this for that long is
 * an attack on whoever reads it. */
#define MAX_RATIO   200
#define RATIO_AFTER (UINT64_C(1) << 20)

/* ---- OpenSSL's structures (crypto/comp, ssl) ---- */

struct method {
	int type;
	const char *name;
	int (*init)(COMP_CTX *ctx);
	void (*finish)(COMP_CTX *ctx);
	tls_comp_result (*compress)(COMP_CTX *ctx, unsigned char *out, tls_comp_size out_size,
				    unsigned char *in, tls_comp_size len);
	tls_comp_result (*expand)(COMP_CTX *ctx, unsigned char *out, tls_comp_size out_size,
				  unsigned char *in, tls_comp_size len);
};

struct context {
	const struct method *method;
	unsigned long compress_in, compress_out, expand_in, expand_out;
	void *data;
};

struct entry {
	int id;
	const char *name;
	const struct method *method;
};

/* ---- the method ---- */

/* Owner: OpenSSL's COMP_CTX of one direction of one connection. Ordinary heap. */
struct state {
	z_stream stream;
	bool compresses, expands; /* stream is one of these, from the first byte on */
	bool broken;              /* RFC 3749 section 3: records depend on those before */
	size_t used, limit;       /* bytes of memory */
	uint64_t in, out;         /* of expansion */
};

/* Before each piece of memory, so that it can be counted when it is freed. */
union piece {
	size_t size;
	max_align_t align;
};

static __thread struct fixed_c_zlib_meter *meter;

void fixed_c_zlib_count(struct fixed_c_zlib_meter *to)
{
	meter = to;
}

static void count(uint64_t clear, uint64_t packed)
{
	if (!meter)
		return;
	meter->clear += clear;
	meter->packed += packed;
}

static void *memory_take(void *opaque, unsigned items, unsigned size)
{
	struct state *s = opaque;
	size_t bytes = (size_t)items * size;
	union piece *piece;

	if (bytes > s->limit - s->used)
		return NULL;
	piece = calloc(1, sizeof(*piece) + bytes);
	if (!piece)
		return NULL;
	piece->size = bytes;
	s->used += bytes;
	return piece + 1;
}

/* What it holds was clear text. */
static void memory_give(void *opaque, void *address)
{
	struct state *s = opaque;
	union piece *piece = (union piece *)address - 1;

	s->used -= piece->size;
	OPENSSL_cleanse(piece, sizeof(*piece) + piece->size);
	free(piece);
}

static struct state *state_of(COMP_CTX *ctx)
{
	return ((struct context *)ctx)->data;
}

static int method_init(COMP_CTX *ctx)
{
	struct state *s = calloc(1, sizeof(*s));

	if (!s)
		return 0;
	s->stream.zalloc = memory_take;
	s->stream.zfree = memory_give;
	s->stream.opaque = s;
	((struct context *)ctx)->data = s;
	return 1;
}

static void method_finish(COMP_CTX *ctx)
{
	struct state *s = state_of(ctx);

	if (s && s->compresses)
		deflateEnd(&s->stream);
	if (s && s->expands)
		inflateEnd(&s->stream);
	free(s);
	((struct context *)ctx)->data = NULL;
}

static int refuse(struct state *s, const char *trouble)
{
	s->broken = true;
	if (meter && !meter->trouble)
		meter->trouble = trouble;
	return -1;
}

static void stream_set(struct state *s, unsigned char *out, size_t out_size, unsigned char *in,
		       size_t len)
{
	s->stream.next_in = in;
	s->stream.avail_in = (uInt)len;
	s->stream.next_out = out;
	s->stream.avail_out = (uInt)out_size;
}

/*
 * The empty record before each one with CBC in TLS 1.0. zlib refuses to flush twice, and OpenSSL a
 * record without a byte, so its library's own method fails here. After a flush the stream stands
 * at a byte's start: an empty stored block fits (RFC 1951 section 3.2.4).
 */
static tls_comp_result compress_nothing(unsigned char *out, size_t out_size)
{
	static const unsigned char block[] = {0, 0, 0, 0xff, 0xff};

	if (out_size < sizeof(block))
		return -1;
	memcpy(out, block, sizeof(block));
	count(0, sizeof(block));
	return sizeof(block);
}

static tls_comp_result method_compress(COMP_CTX *ctx, unsigned char *out, tls_comp_size out_size,
				       unsigned char *in, tls_comp_size len)
{
	struct state *s = state_of(ctx);
	size_t made;

	if (s->broken || s->expands)
		return refuse(s, "compression goes on after it failed");
	if (len == 0 && s->compresses)
		return compress_nothing(out, out_size);
	s->limit = FIXED_C_ZLIB_COMPRESS;
	if (!s->compresses && deflateInit2(&s->stream, LEVEL, Z_DEFLATED, WINDOW_BITS, MEMORY_LEVEL,
					   Z_DEFAULT_STRATEGY) != Z_OK)
		return refuse(s, "compression cannot begin: out of memory");
	s->compresses = true;
	stream_set(s, out, out_size, in, len);
	if (deflate(&s->stream, Z_SYNC_FLUSH) != Z_OK || s->stream.avail_in > 0 ||
	    s->stream.avail_out == 0)
		return refuse(s, "a record cannot be compressed");
	made = out_size - s->stream.avail_out;
	count(len, made);
	return (tls_comp_result)made;
}

/* True when zlib still has output of what it was given, for which there was no room. */
static bool has_more(struct state *s)
{
	unsigned char spare;

	if (s->stream.avail_in > 0)
		return true;
	if (s->stream.avail_out > 0)
		return false;
	s->stream.next_out = &spare;
	s->stream.avail_out = 1;
	inflate(&s->stream, Z_SYNC_FLUSH);
	return s->stream.avail_out == 0;
}

static tls_comp_result method_expand(COMP_CTX *ctx, unsigned char *out, tls_comp_size out_size,
				     unsigned char *in, tls_comp_size len)
{
	struct state *s = state_of(ctx);
	size_t made;
	int result;

	if (s->broken || s->compresses)
		return refuse(s, "expansion goes on after it failed");
	if (len == 0)
		return 0;
	s->limit = FIXED_C_ZLIB_EXPAND;
	/* 0: a window of the size that the peer's stream asks for. */
	if (!s->expands && inflateInit2(&s->stream, 0) != Z_OK)
		return refuse(s, "expansion cannot begin: out of memory");
	s->expands = true;
	stream_set(s, out, out_size, in, len);
	result = inflate(&s->stream, Z_SYNC_FLUSH);
	made = out_size - s->stream.avail_out;
	if (result == Z_MEM_ERROR)
		return refuse(s, "a compressed record needs more memory than there is");
	if (result != Z_OK) /* the end of the stream, too: there is none in TLS */
		return refuse(s, "a compressed record is corrupt");
	if (has_more(s))
		return refuse(s, "a compressed record grows beyond the limit of a record");
	s->in += len;
	s->out += made;
	if (s->out > RATIO_AFTER && s->out / MAX_RATIO > s->in)
		return refuse(s, "the compressed records of the peer grow without measure");
	count(made, len);
	return (tls_comp_result)made;
}

static const struct method method = {
	.type = NID_zlib_compression,
	.name = "zlib compression",
	.init = method_init,
	.finish = method_finish,
	.compress = method_compress,
	.expand = method_expand,
};

/* ---- proof ---- */

#define GUARD        16
#define SAMPLE_BYTES 600

/* A buffer with bytes around it that nobody may touch. */
struct guarded {
	unsigned char before[GUARD], data[SAMPLE_BYTES + 64], after[GUARD];
};

static bool is_intact(const struct guarded *g)
{
	for (size_t i = 0; i < GUARD; i++)
		if (g->before[i] != 0xa5 || g->after[i] != 0xa5)
			return false;
	return true;
}

static void make_sample(struct guarded *g)
{
	memset(g, 0xa5, sizeof(*g));
	for (size_t i = 0; i < SAMPLE_BYTES; i++)
		g->data[i] = (unsigned char)("SIP/2.0 200 OK\r\n"[i % 16] + i / 200);
}

/* Numbers that only these functions return: where OpenSSL adds them up, the counters are. */
#define LAYOUT_PACKED 7
#define LAYOUT_CLEAR  11

static tls_comp_result layout_compress(COMP_CTX *ctx, unsigned char *out, tls_comp_size out_size,
				       unsigned char *in, tls_comp_size len)
{
	(void)ctx;
	(void)in;
	(void)len;
	out[0] = (unsigned char)out_size;
	return LAYOUT_PACKED;
}

static tls_comp_result layout_expand(COMP_CTX *ctx, unsigned char *out, tls_comp_size out_size,
				     unsigned char *in, tls_comp_size len)
{
	(void)ctx;
	(void)in;
	(void)len;
	out[0] = (unsigned char)out_size;
	return LAYOUT_CLEAR;
}

/* Only looks: nothing is written to a structure before it is known. */
static const char *try_layout(void)
{
	static const struct method looks = {
		.type = NID_zlib_compression,
		.name = "layout",
		.compress = layout_compress,
		.expand = layout_expand,
	};
	COMP_METHOD *theirs = (COMP_METHOD *)&looks;
	unsigned char out[16] = "", in[16] = "";
	const struct context *c;
	COMP_CTX *ctx;
	bool same;

	if (COMP_get_type(theirs) != looks.type || COMP_get_name(theirs) != looks.name)
		return "its COMP_METHOD is not as expected";
	ctx = COMP_CTX_new(theirs);
	if (!ctx)
		return "it cannot make a COMP_CTX";
	c = (const struct context *)ctx;
	same = COMP_compress_block(ctx, out, 16, in, 5) == LAYOUT_PACKED && out[0] == 16 &&
	       COMP_expand_block(ctx, out, 15, in, 3) == LAYOUT_CLEAR && out[0] == 15 &&
	       c->method == &looks && c->compress_in == 5 && c->compress_out == LAYOUT_PACKED &&
	       c->expand_in == 3 && c->expand_out == LAYOUT_CLEAR && !c->data;
	COMP_CTX_free(ctx);
	return same ? NULL : "its COMP_CTX is not as expected";
}

/* There and back through OpenSSL's functions, twice, so that state is kept in between. */
static const char *try_pair(COMP_CTX *to, COMP_CTX *from)
{
	struct guarded sample, packed, back;
	int size;

	for (int turn = 0; turn < 2; turn++) {
		make_sample(&sample);
		memset(&packed, 0xa5, sizeof(packed));
		memset(&back, 0xa5, sizeof(back));
		size = COMP_compress_block(to, packed.data, sizeof(packed.data), sample.data,
					   SAMPLE_BYTES);
		if (size <= 0 || size >= SAMPLE_BYTES)
			return "compression makes nothing smaller";
		if (COMP_expand_block(from, back.data, sizeof(back.data), packed.data, size) !=
			    SAMPLE_BYTES ||
		    memcmp(back.data, sample.data, SAMPLE_BYTES) != 0)
			return "what was compressed does not come back";
		if (!is_intact(&sample) || !is_intact(&packed) || !is_intact(&back))
			return "it writes beyond buffers";
	}
	return NULL;
}

static const char *try_method(void)
{
	COMP_METHOD *theirs = (COMP_METHOD *)&method;
	struct fixed_c_zlib_meter *kept = meter, mine = {0};
	const char *trouble;
	COMP_CTX *to, *from;

	meter = &mine;
	to = COMP_CTX_new(theirs);
	from = COMP_CTX_new(theirs);
	trouble = to && from ? try_pair(to, from) : "it cannot make a COMP_CTX";
	COMP_CTX_free(to);
	COMP_CTX_free(from);
	meter = kept;
	return mine.trouble ? mine.trouble : trouble;
}

/* ---- installing it ---- */

typedef int (*security_f)(const SSL *ssl, const SSL_CTX *ctx, int op, int bits, int nid,
			  void *other, void *ex);

static security_f library_security; /* set once, by fixed_c_zlib_install() */

static struct entry *find_entry(int id)
{
	STACK_OF(SSL_COMP) *all = SSL_COMP_get_compression_methods();

	for (int i = 0; i < sk_SSL_COMP_num(all); i++)
		if (SSL_COMP_get_id(sk_SSL_COMP_value(all, i)) == id)
			return (struct entry *)sk_SSL_COMP_value(all, i);
	return NULL;
}

static void drop_entry(struct entry *e)
{
	(void)sk_SSL_COMP_delete_ptr(SSL_COMP_get_compression_methods(), (SSL_COMP *)e);
	OPENSSL_free(e);
}

/*
 * OpenSSL takes numbers of its private range only, but it makes the entry, and so it shows where
 * the members are: then ours takes the number that it should have, or the place of theirs.
 */
static const char *add_method(const struct method *m)
{
	struct entry *old = find_entry(METHOD_ID), *e;

	if (SSL_COMP_add_compression_method(PRIVATE_ID, (COMP_METHOD *)m) != 0)
		return "it has no TLS compression (it was built with no-comp)";
	e = find_entry(PRIVATE_ID);
	if (!e)
		return "it does not keep the method";
#if TLS_COMP_METHOD_IS_LOST
	e->method = m;
#endif
	if (e->id != PRIVATE_ID || e->method != m) {
		drop_entry(e);
		return "its SSL_COMP is not as expected";
	}
	if (old) {
		drop_entry(e);
		e = old;
		e->method = m;
	}
	e->id = METHOD_ID;
	e->name = m->name;
	if (find_entry(METHOD_ID) == e && SSL_COMP_get0_name((SSL_COMP *)e) == m->name)
		return NULL;
	if (!old)
		drop_entry(e);
	return "its SSL_COMP is not as expected";
}

static const char *find_security(void)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_method());

	if (!ctx)
		return "it cannot make an SSL_CTX";
	library_security = SSL_CTX_get_security_callback(ctx);
	SSL_CTX_free(ctx);
	return library_security ? NULL : "it has no security levels";
}

static const char *try_zlib(void)
{
	return zlibVersion()[0] == ZLIB_VERSION[0] ? NULL : "the zlib library is another one";
}

static bool installed;

int fixed_c_zlib_install(char why[FIXED_C_ZLIB_WHY])
{
	const char *trouble;

	if (installed)
		return 0;
	trouble = try_zlib();
	if (!trouble)
		trouble = try_layout();
	if (!trouble)
		trouble = try_method();
	if (!trouble)
		trouble = find_security();
	if (!trouble)
		trouble = add_method(&method);
	ERR_clear_error();
	if (trouble)
		snprintf(why, FIXED_C_ZLIB_WHY, "%s with zlib %s: %s",
			 OpenSSL_version(OPENSSL_VERSION), zlibVersion(), trouble);
	installed = !trouble;
	return trouble ? -1 : 0;
}

bool fixed_c_zlib_installed(void)
{
	return installed;
}

static int allow_compression(const SSL *ssl, const SSL_CTX *ctx, int op, int bits, int nid,
			     void *other, void *ex)
{
	if (op == SSL_SECOP_COMPRESSION)
		return 1;
	return library_security(ssl, ctx, op, bits, nid, other, ex);
}

void fixed_c_zlib_allow(SSL_CTX *ctx)
{
	SSL_CTX_set_security_callback(ctx, allow_compression);
}
