/* SPDX-License-Identifier: ISC */
/* Published hashes, and HMACs. Included by test_hash.c alone. */
#ifndef TEST_HASH_ROWS_H
#define TEST_HASH_ROWS_H

/* Text, or bytes that are the same, or each the one before and 1. */
struct sample {
	const char *text; /* NULL: bytes */
	uint8_t first, step;
	size_t len;
};

#define TEXT(text)                                                                                 \
	{                                                                                          \
		(text), 0, 0, sizeof(text) - 1                                                     \
	}
#define REPEATED(byte, len)                                                                        \
	{                                                                                          \
		NULL, (byte), 0, (len)                                                             \
	}
#define COUNTED(first, len)                                                                        \
	{                                                                                          \
		NULL, (first), 1, (len)                                                            \
	}

static const struct vector {
	const char *source;
	enum tls_hash hash;
	struct sample key, text;
	const char *want;
} hmac_vectors[] = {
	{"RFC 4231 section 4.2", TLS_HASH_SHA256, REPEATED(0x0b, 20), TEXT("Hi There"),
	 "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"},
	{"RFC 4231 section 4.3", TLS_HASH_SHA256, TEXT("Jefe"),
	 TEXT("what do ya want for nothing?"),
	 "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"},
	{"RFC 4231 section 4.4", TLS_HASH_SHA256, REPEATED(0xaa, 20), REPEATED(0xdd, 50),
	 "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"},
	{"RFC 4231 section 4.5", TLS_HASH_SHA256, COUNTED(0x01, 25), REPEATED(0xcd, 50),
	 "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"},
	{"RFC 4231 section 4.7", TLS_HASH_SHA256, REPEATED(0xaa, 131),
	 TEXT("Test Using Larger Than Block-Size Key - Hash Key First"),
	 "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"},
	{"RFC 4231 section 4.8", TLS_HASH_SHA256, REPEATED(0xaa, 131),
	 TEXT("This is a test using a larger than block-size key and a larger than block-size "
	      "data. The key needs to be hashed before being used by the HMAC algorithm."),
	 "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2"},
	{"NIST's example for FIPS 198-1, a key of one block", TLS_HASH_SHA256, COUNTED(0x00, 64),
	 TEXT("Sample message for keylen=blocklen"),
	 "8bb9a1db9806f20df7f77b82138c7914d174d59e13dc4d0169c9057b133e1d62"},
	{"RFC 4231 section 4.2", TLS_HASH_SHA384, REPEATED(0x0b, 20), TEXT("Hi There"),
	 "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59c"
	 "faea9ea9076ede7f4af152e8b2fa9cb6"},
	{"RFC 4231 section 4.3", TLS_HASH_SHA384, TEXT("Jefe"),
	 TEXT("what do ya want for nothing?"),
	 "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e"
	 "8e2240ca5e69e2c78b3239ecfab21649"},
	{"RFC 4231 section 4.4", TLS_HASH_SHA384, REPEATED(0xaa, 20), REPEATED(0xdd, 50),
	 "88062608d3e6ad8a0aa2ace014c8a86f0aa635d947ac9febe83ef4e55966144b"
	 "2a5ab39dc13814b94e3ab6e101a34f27"},
	{"RFC 4231 section 4.5", TLS_HASH_SHA384, COUNTED(0x01, 25), REPEATED(0xcd, 50),
	 "3e8a69b7783c25851933ab6290af6ca77a9981480850009cc5577c6e1f573b4e"
	 "6801dd23c4a7d679ccf8a386c674cffb"},
	{"RFC 4231 section 4.7", TLS_HASH_SHA384, REPEATED(0xaa, 131),
	 TEXT("Test Using Larger Than Block-Size Key - Hash Key First"),
	 "4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f3cd11f05033ac4c6"
	 "0c2ef6ab4030fe8296248df163f44952"},
	{"RFC 4231 section 4.8", TLS_HASH_SHA384, REPEATED(0xaa, 131),
	 TEXT("This is a test using a larger than block-size key and a larger than block-size "
	      "data. The key needs to be hashed before being used by the HMAC algorithm."),
	 "6617178e941f020d351e2f254e8fd32c602420feb0b8fb9adccebb82461e99c5"
	 "a678cc31e799176d3860e6110c46523e"},
	{"NIST's example for FIPS 198-1, a key of one block", TLS_HASH_SHA384, COUNTED(0x00, 128),
	 TEXT("Sample message for keylen=blocklen"),
	 "63c5daa5e651847ca897c95814ab830bededc7d25e83eef9195cd45857a37f44"
	 "8947858f5af50cc2b1b730ddf29671a9"},
	{"RFC 2202, case 1", TLS_HASH_MD5, REPEATED(0x0b, 16), TEXT("Hi There"),
	 "9294727a3638bb1c13f48ef8158bfc9d"},
	{"RFC 2202, case 2", TLS_HASH_MD5, TEXT("Jefe"), TEXT("what do ya want for nothing?"),
	 "750c783e6ab0b503eaa86e310a5db738"},
	{"RFC 2202, case 3", TLS_HASH_MD5, REPEATED(0xaa, 16), REPEATED(0xdd, 50),
	 "56be34521d144c88dbb8c733f0e8b3f6"},
	{"RFC 2202, case 4", TLS_HASH_MD5, COUNTED(0x01, 25), REPEATED(0xcd, 50),
	 "697eaf0aca3a3aea3a75164746ffaa79"},
	{"RFC 2202, case 5", TLS_HASH_MD5, REPEATED(0x0c, 16), TEXT("Test With Truncation"),
	 "56461ef2342edc00f9bab995690efd4c"},
	{"RFC 2202, case 6", TLS_HASH_MD5, REPEATED(0xaa, 80),
	 TEXT("Test Using Larger Than Block-Size Key - Hash Key First"),
	 "6b1ab7fe4bd7bf8f0b62e6ce61b9d0cd"},
	{"RFC 2202, case 7", TLS_HASH_MD5, REPEATED(0xaa, 80),
	 TEXT("Test Using Larger Than Block-Size Key and Larger Than One Block-Size Data"),
	 "6f630fad67cda0ee1fb1f562db3aa53e"},
	{"RFC 2202, case 1", TLS_HASH_SHA1, REPEATED(0x0b, 20), TEXT("Hi There"),
	 "b617318655057264e28bc0b6fb378c8ef146be00"},
	{"RFC 2202, case 2", TLS_HASH_SHA1, TEXT("Jefe"), TEXT("what do ya want for nothing?"),
	 "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"},
	{"RFC 2202, case 3", TLS_HASH_SHA1, REPEATED(0xaa, 20), REPEATED(0xdd, 50),
	 "125d7342b9ac11cd91a39af48aa17b4f63f175d3"},
	{"RFC 2202, case 4", TLS_HASH_SHA1, COUNTED(0x01, 25), REPEATED(0xcd, 50),
	 "4c9007f4026250c6bc8414f9bf50c86c2d7235da"},
	{"RFC 2202, case 5", TLS_HASH_SHA1, REPEATED(0x0c, 20), TEXT("Test With Truncation"),
	 "4c1a03424b55e07fe7f27be1d58bb9324a9a5a04"},
	{"RFC 2202, case 6", TLS_HASH_SHA1, REPEATED(0xaa, 80),
	 TEXT("Test Using Larger Than Block-Size Key - Hash Key First"),
	 "aa4ae5e15272d00e95705637ce8a3b55ed402112"},
	{"RFC 2202, case 7", TLS_HASH_SHA1, REPEATED(0xaa, 80),
	 TEXT("Test Using Larger Than Block-Size Key and Larger Than One Block-Size Data"),
	 "e8e99d0f45237d786d6bbaa7965c7808bbff1a91"},
	{"NIST's example for FIPS 198-1, a key of one block", TLS_HASH_SHA1, COUNTED(0x00, 64),
	 TEXT("Sample message for keylen=blocklen"), "5fd596ee78d5553c8ff4e72d266dfd192366da29"},
	{"HMAC of nothing with an empty key", TLS_HASH_SHA256, TEXT(""), TEXT(""),
	 "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad"},
	{"the same", TLS_HASH_SHA384, TEXT(""), TEXT(""),
	 "6c1f2ee938fad2e24bd91298474382ca218c75db3d83e114b3d4367776d14d35"
	 "51289e75e8209cd4b792302840234adc"},
	{"the same", TLS_HASH_MD5, TEXT(""), TEXT(""), "74e6f7298a9c2d168935f58c001bad88"},
	{"the same", TLS_HASH_SHA1, TEXT(""), TEXT(""), "fbdb1d1b18aa6c08324b7d64b71fb76370690e1d"},
};

static const struct vector hash_vectors[] = {
	{"FIPS 180-2", TLS_HASH_SHA256, TEXT(""), TEXT("abc"),
	 "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
	{"FIPS 180-2", TLS_HASH_SHA256, TEXT(""),
	 TEXT("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
	 "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
	{"FIPS 180-2", TLS_HASH_SHA256, TEXT(""), REPEATED(0x61, 1000000),
	 "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
	{"hash of nothing", TLS_HASH_SHA256, TEXT(""), TEXT(""),
	 "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
	{"FIPS 180-2", TLS_HASH_SHA384, TEXT(""), TEXT("abc"),
	 "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed"
	 "8086072ba1e7cc2358baeca134c825a7"},
	{"FIPS 180-2", TLS_HASH_SHA384, TEXT(""),
	 TEXT("abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmn"
	      "opqrlmnopqrsmnopqrstnopqrstu"),
	 "09330c33f71147e83d192fc782cd1b4753111b173b3b05d22fa08086e3b0f712"
	 "fcc7c71a557e2db966c3e9fa91746039"},
	{"FIPS 180-2", TLS_HASH_SHA384, TEXT(""), REPEATED(0x61, 1000000),
	 "9d0e1809716474cb086e834e310a4a1ced149e9c00f248527972cec5704c2a5b"
	 "07b8b3dc38ecc4ebae97ddd87f3d8985"},
	{"hash of nothing", TLS_HASH_SHA384, TEXT(""), TEXT(""),
	 "38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da"
	 "274edebfe76f65fbd51ad2f14898b95b"},
	{"FIPS 180-2", TLS_HASH_SHA1, TEXT(""), TEXT("abc"),
	 "a9993e364706816aba3e25717850c26c9cd0d89d"},
	{"FIPS 180-2", TLS_HASH_SHA1, TEXT(""),
	 TEXT("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
	 "84983e441c3bd26ebaae4aa1f95129e5e54670f1"},
	{"FIPS 180-2", TLS_HASH_SHA1, TEXT(""), REPEATED(0x61, 1000000),
	 "34aa973cd4c4daa4f61eeb2bdbad27316534016f"},
	{"hash of nothing", TLS_HASH_SHA1, TEXT(""), TEXT(""),
	 "da39a3ee5e6b4b0d3255bfef95601890afd80709"},
	{"RFC 1321 section A.5", TLS_HASH_MD5, TEXT(""), TEXT(""),
	 "d41d8cd98f00b204e9800998ecf8427e"},
	{"RFC 1321 section A.5", TLS_HASH_MD5, TEXT(""), TEXT("a"),
	 "0cc175b9c0f1b6a831c399e269772661"},
	{"RFC 1321 section A.5", TLS_HASH_MD5, TEXT(""), TEXT("abc"),
	 "900150983cd24fb0d6963f7d28e17f72"},
	{"RFC 1321 section A.5", TLS_HASH_MD5, TEXT(""), TEXT("message digest"),
	 "f96b697d7cb7938d525a2f31aaf161d0"},
	{"RFC 1321 section A.5", TLS_HASH_MD5, TEXT(""), TEXT("abcdefghijklmnopqrstuvwxyz"),
	 "c3fcd3d76192e4007dfb496cca67e13b"},
	{"RFC 1321 section A.5", TLS_HASH_MD5, TEXT(""),
	 TEXT("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"),
	 "d174ab98d277d9f5a5611c2c9f419d9f"},
	{"RFC 1321 section A.5", TLS_HASH_MD5, TEXT(""),
	 TEXT("12345678901234567890123456789012345678901234567890123456789012345678901234567890"),
	 "57edf4a22be3c955ac49da2e2107b67a"},
};

#endif
