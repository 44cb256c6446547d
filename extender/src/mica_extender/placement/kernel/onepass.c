/* Filter and prioritize in one pass: names in, answer out, and of what is remembered of the shape only what has changed made anew. */
#include "fleet.h"

/* Verdicts of the names that were read, into work; 0 where only fit.py can tell. */
static int decide(const mica_fleet *fleet, const mica_shape *shape, const mica_known *known, const mica_work *work, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        int32_t row = work->rows[i];
        if (row < 0) {
            work->codes[i] = MICA_UNREGISTERED;
            work->permanent[i] = 1;
            continue;
        }
        if (known->decided_at[row] != fleet->version[row]) {
            uint8_t code, permanent;
            mica_evaluate(fleet, shape, &row, 1, &code, &permanent);
            if (code == MICA_UNDECIDED)
                return 0;
            known->codes[row] = code;
            known->permanent[row] = permanent;
            known->decided_at[row] = fleet->version[row];
        }
        work->codes[i] = known->codes[row];
        work->permanent[i] = known->permanent[row];
    }
    return 1;
}

static int64_t read(const mica_question *asked, const mica_work *work)
{
    return mica_read_names(asked->names, asked->raw, asked->length, work->capacity, work->rows, work->starts, work->ends);
}

int64_t mica_filter(const mica_question *asked, const mica_fleet *fleet, const mica_shape *shape, const mica_known *known,
                    const mica_work *work, const mica_reasons *reasons)
{
    int64_t count = read(asked, work);
    if (count < 0 || !decide(fleet, shape, known, work, count))
        return -1;
    for (int code = 0; code < MICA_CODES; code++)
        work->tally[code] = 0;
    for (int64_t i = 0; i < count; i++)
        work->tally[work->codes[i]]++;
    return mica_write_filter(asked->raw, work->starts, work->ends, count, work->codes, work->permanent, reasons, work->out);
}

int64_t mica_prioritize(const mica_question *asked, const mica_fleet *fleet, const mica_shape *shape, const mica_mix *mix,
                        const mica_known *known, const mica_work *work)
{
    int64_t count = read(asked, work);
    if (count < 0 || !decide(fleet, shape, known, work, count))
        return -1;
    for (int64_t i = 0; i < count; i++) {
        int32_t row = work->rows[i];
        work->scores[i] = 0;
        if (work->codes[i] != MICA_FITS)
            continue;
        if (known->scored_at[row] != fleet->version[row]) {
            int64_t score;
            if (mica_score(fleet, shape, mix, &row, 1, &work->codes[i], &score) || score < 0)
                return -1;
            known->scores[row] = score;
            known->scored_at[row] = fleet->version[row];
        }
        work->scores[i] = known->scores[row];
    }
    return mica_write_scores(asked->raw, work->starts, work->ends, count, work->scores, work->out);
}
