/* SPDX-License-Identifier: MIT */
/* test_base.c - cursors, option tables, log limits */
#include "t.h"

#include "base/opts.h"

#include <sluice/cursor.h>
#include <sluice/log.h>

/* ---- cursors ---- */

static char bytes[64];

static struct sl_cursor make(struct iovec *iov, const unsigned int *lens, unsigned int n)
{
	struct sl_cursor c = {.iov = iov, .cnt = n};
	size_t at = 0;

	for (unsigned int i = 0; i < sizeof(bytes); i++)
		bytes[i] = (char)i;
	for (unsigned int i = 0; i < n; i++) {
		iov[i] = (struct iovec){bytes + at, lens[i]};
		at += lens[i];
	}
	c.bytes = at;
	return c;
}

static void cursor_read_across_entries(void)
{
	struct iovec iov[3];
	struct sl_cursor c = make(iov, (unsigned int[]){3, 1, 10}, 3);
	char got[16];

	CHECK_EQ(sl_cursor_read(&c, got, 5), 5);
	for (int i = 0; i < 5; i++)
		CHECK_EQ(got[i], i);
	CHECK_EQ(c.cnt, 1);
	CHECK_EQ(c.front_cut, 1);
	CHECK_EQ(c.bytes, 9);
	CHECK_EQ(c.iov->iov_len, 9);
	/* more than is left: what is left */
	CHECK_EQ(sl_cursor_read(&c, got, 16), 9);
	CHECK_EQ(got[8], 13);
	CHECK_EQ(c.cnt, 0);
	CHECK_EQ(c.bytes, 0);
	CHECK_EQ(sl_cursor_read(&c, got, 1), 0);
}

static void cursor_keeps_the_original_list(void)
{
	static const unsigned int lens[] = {5, 7, 9};
	struct iovec iov[3], first[3];
	struct sl_cursor c = make(iov, lens, 3);

	memcpy(first, iov, sizeof(iov));
	sl_cursor_skip(&c, 2);
	sl_cursor_skip(&c, 3); /* first entry used up in two steps */
	CHECK(!memcmp(&iov[0], &first[0], sizeof(iov[0])));
	sl_cursor_skip(&c, 4);
	CHECK_EQ(c.front_cut, 4);
	for (int i = 0; i < 9; i++)
		CHECK(sl_cursor_last_byte(&c) == (uint8_t *)bytes + 20 - i);
	CHECK(!memcmp(&iov[2], &first[2], sizeof(iov[2]))); /* last one used up from the back */
	CHECK_EQ(c.cnt, 1);
	sl_cursor_last_byte(&c);
	/* front and back of the one that is left can be undone */
	CHECK((char *)c.iov->iov_base - c.front_cut == first[1].iov_base);
	CHECK_EQ(c.iov->iov_len + c.front_cut + c.back_cut, first[1].iov_len);
	CHECK_EQ(sl_cursor_skip(&c, 100), 2);
	CHECK(!memcmp(iov, first, sizeof(iov)));
	CHECK(sl_cursor_last_byte(&c) == NULL);
}

static void cursor_writes_and_zeroes(void)
{
	struct iovec iov[2];
	struct sl_cursor c = make(iov, (unsigned int[]){2, 6}, 2);

	CHECK_EQ(sl_cursor_write(&c, "abc", 3), 3);
	CHECK_EQ(sl_cursor_zero(&c, 2), 2);
	CHECK(!memcmp(bytes, "abc\0\0\005\006\007\010", 9));
	CHECK_EQ(sl_cursor_write(&c, "zzzzzzzz", 8), 3); /* never beyond the end */
	CHECK_EQ(bytes[8], 8);
}

/* ---- option tables ---- */

struct options {
	bool flag;
	uint64_t number, size;
	const char *text;
	unsigned int mode;
};

static const char *const modes[] = {"slow", "fast", NULL};
static const struct opt_def defs[] = {
	{"flag", OPT_BOOL, offsetof(struct options, flag), "on", .help = "a switch"},
	{"number", OPT_UINT, offsetof(struct options, number), "7", .min = 1, .max = 100, .help = "a number"},
	{"size", OPT_SIZE, offsetof(struct options, size), "4K", .max = 1 << 30, .help = "a size"},
	{"text", OPT_STRING, offsetof(struct options, text), NULL, .help = "a text"},
	{"mode", OPT_ENUM, offsetof(struct options, mode), "slow", .values = modes, .help = "a choice"},
	{0}};
static const struct opt_table table = {"test", defs};
static const struct opt_table *const tables[] = {&table, NULL};

/* Parse and apply; the error text is left in err. */
static struct sl_err err;
static struct spec spec;

static int apply(const char *text, struct options *o)
{
	int ret;

	memset(o, 0, sizeof(*o));
	err.text[0] = '\0';
	spec_free(&spec);
	ret = spec_parse(&spec, text, &err);
	if (!ret)
		ret = opts_apply(&table, &spec, o, &err);
	if (!ret)
		ret = opts_finish(tables, &spec, &err);
	return ret;
}

static void opts_defaults_and_values(void)
{
	struct options o;

	CHECK_EQ(apply("blk,/a/b", &o), 0);
	CHECK(!strcmp(spec.type, "blk") && !strcmp(spec.source, "/a/b"));
	CHECK(o.flag && o.number == 7 && o.size == 4096 && !o.text && o.mode == 0);
	CHECK_EQ(apply("blk,flag=off,number=0x10,size=1M,text=x=y,mode=fast", &o), 0);
	CHECK(!spec.source);
	CHECK(!o.flag && o.number == 16 && o.size == 1 << 20 && !strcmp(o.text, "x=y") && o.mode == 1);
	CHECK_EQ(apply("blk,a,,b/c=d,text=1,,2", &o), 0);
	CHECK(!strcmp(spec.source, "a,b/c=d") && !strcmp(o.text, "1,2"));
	CHECK_EQ(apply("blk,nbd+unix:///?socket=/x", &o), 0);
	CHECK(!strcmp(spec.source, "nbd+unix:///?socket=/x"));
	spec_free(&spec);
}

static void opts_refusals_say_why(void)
{
	static const struct {
		const char *text, *says;
	} rows[] = {
		{"", "a device starts with its type"},
		{"flag=on", "a device starts with its type"},
		{"blk,,x", NULL}, /* "blk,x" is a type of its own: accepted by the parser */
		{"blk,a,b", "neither KEY=VALUE nor the source"},
		{"blk,flag=on,x", "neither KEY=VALUE nor the source"},
		{"blk,a,", "an empty piece"},
		{"blk,flag=on,flag=off", "given twice"},
		{"blk,flog=on", "did you mean 'flag'"},
		{"blk,zzzzzz=1", "unknown key 'zzzzzz'"},
		{"blk,flag=onn", "did you mean 'on'"},
		{"blk,mode=fats", "did you mean 'fast'"},
		{"blk,mode=quick", "wants one of slow, fast"},
		{"blk,number=", "wants a number"},
		{"blk,number=-1", "wants a number"},
		{"blk,number=0", "out of range"},
		{"blk,number=101", "out of range"},
		{"blk,number=99999999999999999999999", "out of range"},
		{"blk,size=1X", "wants a size"},
		{"blk,size=2G", "out of range"},
		{"blk,size=99999999999G", "out of range"},
		{"blk,text=", "needs a value"},
	};
	struct options o;

	for (unsigned int i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int ret = apply(rows[i].text, &o);

		if (!rows[i].says) {
			CHECK_EQ(ret, 0);
			continue;
		}
		CHECK(ret < 0);
		if (!strstr(err.text, rows[i].says)) {
			fprintf(stderr, "'%s': '%s' lacks '%s'\n", rows[i].text, err.text, rows[i].says);
			t_failures++;
		}
		CHECK(!strchr(err.text, '\n'));
	}
	spec_free(&spec);
}

/* ---- log ---- */

static unsigned int lines;

static void count_line(void *arg, enum sl_log_level level, const char *line)
{
	(void)arg;
	(void)level;
	(void)line;
	lines++;
}

static void log_is_limited(void)
{
	struct sl_log_limit limit = {0};

	sl_log_to(count_line, NULL, SL_LOG_INFO);
	for (int i = 0; i < 100000; i++)
		sl_log_limited(&limit, SL_LOG_WARN, "a guest did it again");
	CHECK(lines >= 5 && lines <= 20);
	lines = 0;
	sl_log(SL_LOG_DEBUG, "above the level");
	CHECK_EQ(lines, 0);
	sl_log_to(NULL, NULL, SL_LOG_INFO);
}

static const struct t_case cases[] = {
	{"cursor_read_across_entries", cursor_read_across_entries},
	{"cursor_keeps_the_original_list", cursor_keeps_the_original_list},
	{"cursor_writes_and_zeroes", cursor_writes_and_zeroes},
	{"opts_defaults_and_values", opts_defaults_and_values},
	{"opts_refusals_say_why", opts_refusals_say_why},
	{"log_is_limited", log_is_limited},
};
T_MAIN(cases)
