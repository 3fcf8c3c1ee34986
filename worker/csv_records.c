/*
 * Counts the records at the beginning of a text that are whole and plain: RFC 4180, UTF-8, as many cells as the heading.
 *
 * One pass over bytes that nobody vouches for: nothing is written, and nothing is read beyond text + size. It stops where
 * a record is not whole yet, or is odd: of another width, broken UTF-8, quoted in a way RFC 4180 does not have. Blank
 * lines are none, and odd among records of one cell.
 * What to make of an odd one is for worker/csv_check.py to say, which also does all of this without this file.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define EACH(byte) (0x0101010101010101ULL * (byte))
#define HIGHEST EACH(0x80)

static int matters(uint8_t byte) { return byte == ',' || byte == '\n' || byte == '"' || byte >= 0x80; }

/* The next comma, newline, quote or byte above ASCII at or after `at`; `size` if there is none. */
static size_t next(const uint8_t *text, size_t at, size_t size)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    for (; size - at >= 8; at += 8) {
        uint64_t eight, found;
        memcpy(&eight, text + at, 8);
        found = eight;
        for (int i = 0; i < 3; i++) { /* x - 1 borrows into the highest bit of the first byte that is zero */
            uint64_t x = eight ^ EACH((uint64_t)",\n\""[i]);
            found |= (x - EACH(1)) & ~x;
        }
        if (found & HIGHEST)
            return at + (size_t)(__builtin_ctzll(found & HIGHEST) >> 3);
    }
#endif
    while (at < size && !matters(text[at]))
        at++;
    return at;
}

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

/* Behind the quoted cell whose content begins at `at`; 0 if it does not end here, or not as a cell does. */
static size_t quoted(const uint8_t *text, size_t at, size_t size)
{
    while ((at = next(text, at, size)) < size) {
        if (text[at] >= 0x80) {
            size_t length = character(text, at, size);
            if (!length)
                return 0;
            at += length;
        } else if (text[at++] == '"') {
            if (at == size)
                return 0;
            if (text[at] == '"')
                at++;
            else if (text[at] == ',' || text[at] == '\n' || (text[at] == '\r' && size - at > 1 && text[at + 1] == '\n'))
                return at;
            else
                return 0;
        }
    }
    return 0;
}

/*
 * The number changes with the signature: an older library than csv_records.py is not called, then.
 *
 * Where the last record ends that was counted from `begin` on. `odd`: whether a newline follows, so one may be odd. */
size_t planrelay_records_1(const uint8_t *text, size_t begin, size_t size, size_t cells, size_t *records, int *odd)
{
    size_t at = begin, commas = 0;
    *records = 0;
    while ((at = next(text, at, size)) < size) {
        uint8_t byte = text[at];
        size_t after = at + 1;
        if (byte == ',') {
            commas++;
        } else if (byte == '\n') {
            int blank = at == begin || (at == begin + 1 && text[begin] == '\r');
            if (blank ? cells == 1 : commas + 1 != cells)
                break;
            begin = after;
            commas = 0;
            *records += !blank;
        } else if (byte >= 0x80) {
            after = at + character(text, at, size);
        } else if (at == begin || text[at - 1] == ',') {
            after = quoted(text, after, size);
        } else if (text[at - 1] == '\r') {
            break; /* to be ignored, perhaps, so that a cell begins behind it */
        } /* else a quote inside a bare cell, which stands for itself */
        if (after <= at)
            break;
        at = after;
    }
    *odd = begin < size && memchr(text + begin, '\n', size - begin) != NULL;
    return begin;
}
