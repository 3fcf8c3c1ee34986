/*
 * Counts the records at the beginning of a text that are whole and plain: RFC 4180, UTF-8, as many cells as the heading.
 *
 * One pass over bytes that nobody vouches for: nothing is written, and nothing is read beyond text + size. It stops where
 * a record is not whole yet, or is odd: of another width, broken UTF-8, a quote beside a CR that ends no line. Other
 * quotes that RFC 4180 has no place for stand for themselves. Blank lines are none, and odd among records of one cell.
 * What to make of an odd one is for worker/csv_check.py to say, which also does all of this without this file.
 *
 * Two ways to read, which say the same: `many` takes 64 bytes at a time and gives up at whatever needs a closer look
 * (Langdale and Lemire, "Parsing Gigabytes of JSON per Second", 2019, has the marks and the sum that tells what is
 * quoted); `one` looks closer, byte by byte.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define EACH(byte) (0x0101010101010101ULL * (byte))

/* Marks: which of 64 bytes are so, one bit a byte, the first one lowest. */

#if defined(__GNUC__) && defined(__SSE2__) /* any x86-64; GCC and all that speak its dialect */
#include <emmintrin.h>

static __m128i quarter(const uint8_t *text, int i) { return _mm_loadu_si128((const __m128i *)(text + 16 * i)); }

static uint64_t equal(const uint8_t *text, uint8_t byte)
{
    uint64_t marks = 0;
    for (int i = 0; i < 4; i++)
        marks |= (uint64_t)_mm_movemask_epi8(_mm_cmpeq_epi8(quarter(text, i), _mm_set1_epi8((char)byte))) << 16 * i;
    return marks;
}

static uint64_t above_ascii(const uint8_t *text)
{
    uint64_t marks = 0;
    for (int i = 0; i < 4; i++)
        marks |= (uint64_t)_mm_movemask_epi8(quarter(text, i)) << 16 * i;
    return marks;
}
#elif defined(__GNUC__) && defined(__ARM_NEON) && defined(__aarch64__) && defined(__ORDER_LITTLE_ENDIAN__)
#include <arm_neon.h>

static uint8x16_t one_bit_each(uint8x16_t where)
{
    return vandq_u8(where, vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201ULL)));
}

static uint64_t gathered(uint8x16_t a, uint8x16_t b, uint8x16_t c, uint8x16_t d)
{
    uint8x16_t low = vpaddq_u8(one_bit_each(a), one_bit_each(b)), high = vpaddq_u8(one_bit_each(c), one_bit_each(d));
    low = vpaddq_u8(low, high);
    return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(low, low)), 0);
}

static uint64_t equal(const uint8_t *text, uint8_t byte)
{
    uint8x16_t all = vdupq_n_u8(byte);
    return gathered(vceqq_u8(vld1q_u8(text), all), vceqq_u8(vld1q_u8(text + 16), all),
                    vceqq_u8(vld1q_u8(text + 32), all), vceqq_u8(vld1q_u8(text + 48), all));
}

static uint64_t above_ascii(const uint8_t *text)
{
    uint8x16_t all = vdupq_n_u8(0x80);
    return gathered(vcgeq_u8(vld1q_u8(text), all), vcgeq_u8(vld1q_u8(text + 16), all),
                    vcgeq_u8(vld1q_u8(text + 32), all), vcgeq_u8(vld1q_u8(text + 48), all));
}
#else
#define BY_BYTE
#endif

/* The length of the character that begins at `at` with a byte above ASCII (Unicode 16, table 3-7); 0 if it is none. */
static size_t character(const uint8_t *text, size_t at, size_t size)
{
    uint8_t first = text[at], low = 0x80, high = 0xBF;
    size_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    if (first < 0xC2 || first > 0xF4 || size - at < length)
        return 0;
    if (first == 0xE0)
        low = 0xA0;
    else if (first == 0xED)
        high = 0x9F;
    else if (first == 0xF0)
        low = 0x90;
    else if (first == 0xF4)
        high = 0x8F;
    if (text[at + 1] < low || text[at + 1] > high)
        return 0;
    for (size_t i = 2; i < length; i++)
        if ((text[at + i] & 0xC0) != 0x80)
            return 0;
    return length;
}

/* Whether a cell may end before `at`, as far as the text goes. */
static int is_edge(const uint8_t *text, size_t at, size_t size)
{
    return text[at] == ',' || text[at] == '\n' || (text[at] == '\r' && size - at > 1 && text[at + 1] == '\n');
}

static int is_blank(const uint8_t *text, size_t begin, size_t newline)
{
    return newline == begin || (newline == begin + 1 && text[begin] == '\r');
}

#ifndef BY_BYTE
static size_t first(uint64_t marks) { return (size_t)__builtin_ctzll(marks); } /* of at least one */

static size_t sum(uint64_t marks) /* Warren, "Hacker's Delight", 5-1 */
{
    marks -= marks >> 1 & EACH(0x55);
    marks = (marks & EACH(0x33)) + (marks >> 2 & EACH(0x33));
    return (size_t)(((marks + (marks >> 4)) & EACH(0x0F)) * EACH(1) >> 56);
}

/* Whether there is an odd number of marks up to each bit, itself included. */
static uint64_t odd_so_far(uint64_t marks)
{
    for (int by = 1; by < 64; by *= 2)
        marks ^= marks << by;
    return marks;
}

/* Behind the last record of those that begin at `begin`, as far as 64 bytes at a time and what is easily told go. */
static size_t many(const uint8_t *text, size_t begin, size_t size, size_t cells, size_t *records)
{
    size_t at = begin, commas = 0, read = 0; /* characters were looked at before `read` */
    uint64_t inside = 0;                     /* all bits, where the last cell is quoted and goes on */
    uint64_t edge = 1, closed = 0;           /* the byte before: a quote may follow, or was the end of a quoted cell */
    for (; size - at >= 64; at += 64) {
        uint64_t outer_commas = equal(text + at, ','), ends = equal(text + at, '\n'), close = 0;
        uint64_t quotes = equal(text + at, '"');
        for (uint64_t above = above_ascii(text + at); above; above &= above - 1) {
            size_t next = at + first(above);
            if (next >= read) {
                size_t length = character(text, next, size);
                if (!length)
                    return begin;
                read = next + length;
            }
        }
        if (quotes | inside | closed) {
            uint64_t quoted = odd_so_far(quotes) ^ inside, open = quotes & quoted, behind;
            close = quotes & ~quoted;
            outer_commas &= ~quoted;
            ends &= ~quoted;
            if (open & ~((outer_commas | ends | close) << 1 | edge))
                return begin;
            behind = (close << 1 | closed) & ~(outer_commas | ends | open);
            for (; behind; behind &= behind - 1)
                if (!is_edge(text, at + first(behind), size))
                    return begin;
            inside = 0 - (quoted >> 63);
        }
        edge = (outer_commas | ends | close) >> 63;
        closed = close >> 63;
        for (; ends; ends &= ends - 1) {
            size_t newline = at + first(ends);
            uint64_t before = (ends & (0 - ends)) - 1;
            int blank = is_blank(text, begin, newline);
            commas += sum(outer_commas & before);
            if (blank ? cells == 1 : commas + 1 != cells)
                return begin;
            outer_commas &= ~before;
            begin = newline + 1;
            commas = 0;
            *records += !blank;
        }
        commas += sum(outer_commas);
    }
    return begin;
}

#endif

/* Behind the quotes of the cell whose content begins at `at`; 0 if they do not end here, or before a lone CR. */
static size_t quoted(const uint8_t *text, size_t at, size_t size)
{
    while (at < size) {
        if (text[at] >= 0x80) {
            size_t length = character(text, at, size);
            if (!length)
                return 0;
            at += length;
        } else if (text[at++] == '"') {
            if (at == size)
                return 0;
            if (text[at] != '"') /* more than an edge: it goes on as a bare cell does */
                return text[at] != '\r' || is_edge(text, at, size) ? at : 0;
            at++;
        }
    }
    return 0;
}

/* Behind the record or the blank line that begins at `begin`, whatever quotes stand inside its cells; 0 if it is odd. */
static size_t one(const uint8_t *text, size_t begin, size_t size, size_t cells, size_t *records)
{
    size_t at = begin, commas = 0;
    while (at < size) {
        uint8_t byte = text[at];
        size_t after = at + 1;
        if (byte == ',') {
            commas++;
        } else if (byte == '\n') {
            int blank = is_blank(text, begin, at);
            if (blank ? cells == 1 : commas + 1 != cells)
                return 0;
            *records += !blank;
            return after;
        } else if (byte >= 0x80) {
            after = at + character(text, at, size);
        } else if (byte == '"') {
            if (at == begin || text[at - 1] == ',')
                after = quoted(text, after, size);
            else if (text[at - 1] == '\r')
                return 0; /* to be ignored, perhaps, so that a cell begins behind it */
        } /* else, as a quote inside a bare cell does, it stands for itself */
        if (after <= at)
            return 0;
        at = after;
    }
    return 0;
}

/*
 * The number changes with the signature: an older library than csv_records.py is not called, then.
 *
 * Where the last record ends that was counted from `begin` on. `odd`: whether a newline follows, so one may be odd. */
size_t planrelay_records_1(const uint8_t *text, size_t begin, size_t size, size_t cells, size_t *records, int *odd)
{
    *records = 0;
    for (size_t end;; begin = end) {
#ifndef BY_BYTE
        begin = many(text, begin, size, cells, records);
#endif
        if (!(end = one(text, begin, size, cells, records)))
            break;
    }
    *odd = begin < size && memchr(text + begin, '\n', size - begin) != NULL;
    return begin;
}
