/* SPDX-License-Identifier: ISC */
#include "tls_select.h"

#include "tls_attribute.h"

#include "core/dprint.h"
#include "core/select.h"

#include <stdio.h>

/* Most words of a select: tls, peer, subject, cn. */
#define MAX_WORDS 8

/* Where a resolved select has its code and index: in place of its words. */
enum {
	PARAM_CODE,
	PARAM_INDEX,
	PARAMS_USED,
};

static bool all_known = true; /* changed before the processes are forked only */

/* Splits a select into the words behind "tls" and the index at its end. Returns the number of
 * words, or -1 if it has another form. */
static int split(const select_t *s, str *words, int *index, bool *has_index)
{
	int count = s->n - 1;

	*index = 0;
	*has_index = count > 0 && s->params[s->n - 1].type == SEL_PARAM_INT;
	if (*has_index)
		*index = s->params[--count + 1].v.i;
	if (count > MAX_WORDS)
		return -1;
	for (int i = 0; i < count; i++) {
		if (s->params[i + 1].type != SEL_PARAM_STR)
			return -1;
		words[i] = s->params[i + 1].v.s;
	}
	return count;
}

static bool fits(int code, bool has_index)
{
	enum tls_attribute_index indexing = tls_attribute_indexing(code);

	return has_index ? indexing != TLS_ATTRIBUTE_SINGLE : indexing != TLS_ATTRIBUTE_MUST_INDEX;
}

/* Names the select as it stands in a script. */
static int say_unknown(const select_t *s)
{
	char text[256] = "";
	size_t len = 0;

	for (int i = 0; i < s->n && len < sizeof(text); i++) {
		const select_param_t *p = &s->params[i];

		if (p->type == SEL_PARAM_STR)
			len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%.*s",
						i ? "." : "@", p->v.s.len, p->v.s.s);
		else if (p->type == SEL_PARAM_INT)
			len += (size_t)snprintf(text + len, sizeof(text) - len, "[%d]", p->v.i);
	}
	LM_ERR("tls: there is no select %s\n", text);
	all_known = false;
	return -1;
}

/* When the host resolves a select, once. */
static int resolve(select_t *s)
{
	str words[MAX_WORDS];
	bool has_index;
	int index;
	int count = split(s, words, &index, &has_index);
	int code = count < 0 ? -1 : tls_attribute_of_select(words, (size_t)count);

	if (code < 0 || !fits(code, has_index))
		return say_unknown(s);
	/* The host has room for more parameters than any select has. */
	s->params[PARAM_CODE] = (select_param_t){SEL_PARAM_INT, {.i = code}};
	s->params[PARAM_INDEX] = (select_param_t){SEL_PARAM_INT, {.i = index}};
	if (s->n < PARAMS_USED)
		s->n = PARAMS_USED;
	return 0;
}

static int select_tls(str *result, select_t *s, struct sip_msg *msg)
{
	struct tls_attribute_value value;

	if (!result)
		return resolve(s);
	if (tls_attribute_get(msg, s->params[PARAM_CODE].v.i, s->params[PARAM_INDEX].v.i, &value) !=
	    0)
		return 1;
	*result = value.text;
	return 0;
}

bool tls_select_all_known(void)
{
	return all_known;
}

int tls_select_init(void)
{
	static select_row_t rows[] = {
		{NULL, SEL_PARAM_STR, STR_STATIC_INIT("tls"), select_tls, CONSUME_ALL | FIXUP_CALL},
		{NULL, SEL_PARAM_INT, STR_NULL, NULL, 0},
	};

	return register_select_table(rows);
}
