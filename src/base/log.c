/* SPDX-License-Identifier: MIT */
/* log.c - one line at a time to standard error or to the embedding program */
#include <sluice/log.h>
#include <sluice/loop.h>

#include <stdio.h>
#include <unistd.h>

#define LIMIT_PERIOD_NS 10000000000ULL
#define LIMIT_LINES 5

/* Where lines go. Set once before other threads run, see sl_log_to(). */
static struct {
	void (*fn)(void *arg, enum sl_log_level level, const char *line);
	void *arg;
	enum sl_log_level level;
} sink = {.level = SL_LOG_INFO};

void sl_log_to(void (*fn)(void *arg, enum sl_log_level level, const char *line), void *arg, enum sl_log_level level)
{
	sink.fn = fn;
	sink.arg = arg;
	sink.level = level;
}

static void emit(enum sl_log_level level, const char *text)
{
	char line[640];
	int n;

	if (sink.fn) {
		sink.fn(sink.arg, level, text);
		return;
	}
	/* One write, so that lines of several threads and processes do not mix. */
	n = snprintf(line, sizeof(line), "sluice: %s%s\n", level == SL_LOG_WARN ? "warning: " : "", text);
	if (n >= (int)sizeof(line)) {
		n = sizeof(line) - 1;
		line[n - 1] = '\n';
	}
	if (write(STDERR_FILENO, line, (size_t)n) < 0) {
		/* Nobody is left to tell. */
	}
}

static void vlog(enum sl_log_level level, const char *fmt, va_list ap)
{
	char text[600];

	vsnprintf(text, sizeof(text), fmt, ap);
	emit(level, text);
}

void sl_log(enum sl_log_level level, const char *fmt, ...)
{
	va_list ap;

	if (level > sink.level)
		return;
	va_start(ap, fmt);
	vlog(level, fmt, ap);
	va_end(ap);
}

void sl_log_limited(struct sl_log_limit *limit, enum sl_log_level level, const char *fmt, ...)
{
	uint64_t now;
	va_list ap;

	if (level > sink.level)
		return;
	now = sl_now();
	if (!limit->window || now - limit->window > LIMIT_PERIOD_NS) {
		if (limit->suppressed)
			sl_log(level, "(%u more lines of this kind were dropped)", limit->suppressed);
		limit->window = now;
		limit->count = 0;
		limit->suppressed = 0;
	}
	if (limit->count >= LIMIT_LINES) {
		limit->suppressed++;
		return;
	}
	limit->count++;
	va_start(ap, fmt);
	vlog(level, fmt, ap);
	va_end(ap);
}
