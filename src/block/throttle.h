/* SPDX-License-Identifier: MIT */
/* throttle.h - the token bucket of the throttle filter: arithmetic only, no clock of its own.
 *
 * A bucket is one number: the time at which all that was let through so far is
 * paid for, at the bucket's rate. Taking tokens moves it on and answers when
 * what they are for may start. While that time is no further ahead than the
 * burst, the answer is "now"; a bucket nobody takes from has its whole burst
 * to give after it has been paid for. So tokens are handed out in the order in
 * which they are asked for, whoever asks, nothing is lost when somebody comes
 * late for them by less than the burst, and what is larger than the bucket
 * passes and is paid for by those behind it.
 *
 * Any thread; one compare-and-swap is all there is.
 */
#ifndef BLOCK_THROTTLE_H
#define BLOCK_THROTTLE_H

#include <stdint.h>

#define BUCKET_TICKS 16u /* in a nanosecond: 512 bytes at 10 GB/s are 819 */
#define BUCKET_SECOND (1000000000ull * BUCKET_TICKS)

/**
 * struct bucket
 * @rate:  tokens a second; 0: no limit
 * @burst: ticks
 * @one:   ticks of one token, as no other number is asked for as often
 * @paid:  atomic, ticks
 */
struct bucket {
	uint64_t rate, burst, one;
	uint64_t paid;
};

/** bucket_ticks() - how long @tokens take; capped at some 36 years */
static inline uint64_t bucket_ticks(const struct bucket *b, uint64_t tokens)
{
	unsigned __int128 ticks;

	if (tokens == 1)
		return b->one;
	if (tokens < UINT64_MAX / BUCKET_SECOND)
		return tokens * BUCKET_SECOND / b->rate;
	ticks = (unsigned __int128)tokens * BUCKET_SECOND / b->rate;
	return ticks >> 60 ? (uint64_t)1 << 60 : (uint64_t)ticks;
}

/** bucket_init() - @burst: tokens that an idle bucket gives at once; at least what @least_ns bring */
static inline void bucket_init(struct bucket *b, uint64_t rate, uint64_t burst, uint64_t least_ns)
{
	*b = (struct bucket){.rate = rate};
	if (!rate)
		return;
	b->one = BUCKET_SECOND / rate;
	/* The last token of a burst is one that the others need not pay for. */
	b->burst = burst ? bucket_ticks(b, burst - 1) : 0;
	if (b->burst < least_ns * BUCKET_TICKS)
		b->burst = least_ns * BUCKET_TICKS;
}

/**
 * bucket_take() - take @tokens at @now
 * @now: nanoseconds, of a clock that all who use this bucket share
 *
 * Return: when what they are for may start, in nanoseconds; not after @now: at once.
 */
static inline uint64_t bucket_take(struct bucket *b, uint64_t tokens, uint64_t now)
{
	uint64_t paid, from, ticks;

	if (!b->rate || !tokens)
		return 0;
	ticks = bucket_ticks(b, tokens);
	paid = __atomic_load_n(&b->paid, __ATOMIC_RELAXED);
	do
		from = paid > now * BUCKET_TICKS ? paid : now * BUCKET_TICKS;
	while (!__atomic_compare_exchange_n(&b->paid, &paid, from + ticks, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
	return from > b->burst ? (from - b->burst + BUCKET_TICKS - 1) / BUCKET_TICKS : 0;
}

/**
 * bucket_slack() - tokens that nobody would have to wait for at @now, no more than @ns bring
 *
 * To let some pass and take their tokens together afterwards.
 */
static inline uint64_t bucket_slack(const struct bucket *b, uint64_t now, uint64_t ns)
{
	uint64_t end = now * BUCKET_TICKS + b->burst, paid = __atomic_load_n(&b->paid, __ATOMIC_RELAXED), ticks;

	if (!b->rate)
		return UINT64_MAX;
	if (paid >= end)
		return 0;
	ticks = end - paid < ns * BUCKET_TICKS ? end - paid : ns * BUCKET_TICKS;
	return (uint64_t)((unsigned __int128)ticks * b->rate / BUCKET_SECOND);
}

#endif
