/* SPDX-License-Identifier: ISC */
/*
 * The compression method for the OpenSSL of the tests' clients, and ways to
 * misuse it. Built as a library by test_compression.py.
 */
#include "fixed_c_zlib.c"

enum peer_mode {
	PEER_HONEST,
	PEER_CORRUPT,    /* bytes that are no DEFLATE */
	PEER_BOMB,       /* one record that grows to 512 KB */
	PEER_SLOW_BOMB,  /* any number of records that each grow to 16 KB */
	PEER_END,        /* the end of the stream */
	PEER_DICTIONARY, /* as the first record: a dictionary is needed */
};

int peer_install(void);
void peer_set_mode(int mode);

static int peer_mode;

static tls_comp_result grow(struct state *s, unsigned char *out, size_t out_size, size_t bytes)
{
	static unsigned char zeros[16384];

	stream_set(s, out, out_size, zeros, 0);
	for (; bytes > 0; bytes -= sizeof(zeros)) {
		s->stream.next_in = zeros;
		s->stream.avail_in = sizeof(zeros);
		if (deflate(&s->stream, bytes > sizeof(zeros) ? Z_NO_FLUSH : Z_SYNC_FLUSH) != Z_OK)
			return -1;
	}
	return (tls_comp_result)(out_size - s->stream.avail_out);
}

static tls_comp_result peer_compress(COMP_CTX *ctx, unsigned char *out, tls_comp_size out_size,
				     unsigned char *in, tls_comp_size len)
{
	static const unsigned char dictionary[] = {0x78, 0xbb, 1, 2, 3, 4, 5, 6, 7, 8};
	struct state *s = state_of(ctx);

	switch (peer_mode) {
	case PEER_CORRUPT:
		memset(out, 0xff, len < 40 ? len : 40);
		return len < 40 ? (tls_comp_result)len : 40;
	case PEER_BOMB:
		return grow(s, out, out_size, 512 << 10);
	case PEER_SLOW_BOMB:
		return grow(s, out, out_size, 16384);
	case PEER_END:
		stream_set(s, out, out_size, in, len);
		deflate(&s->stream, Z_FINISH);
		return (tls_comp_result)(out_size - s->stream.avail_out);
	case PEER_DICTIONARY:
		memcpy(out, dictionary, sizeof(dictionary));
		return sizeof(dictionary);
	default:
		return method_compress(ctx, out, out_size, in, len);
	}
}

static const struct method peer = {
	.type = NID_zlib_compression,
	.name = "zlib",
	.init = method_init,
	.finish = method_finish,
	.compress = peer_compress,
	.expand = method_expand,
};

int peer_install(void)
{
	char why[FIXED_C_ZLIB_WHY];

	if (fixed_c_zlib_install(why) != 0)
		return -1;
	find_entry(METHOD_ID)->method = &peer;
	return 0;
}

void peer_set_mode(int mode)
{
	peer_mode = mode;
}
