"""Lines to columns in compiled code: header, time, level, session key, text, continuation lines.

A line that is unusual is left to Python (header_columns.py).
"""

from __future__ import annotations

import numpy as np

from ai_detect.ingest.byte_dictionary import NO_ROOM, DictionaryArrays, number_of
from ai_detect.ingest.byte_machine import GAVE_UP, NO_MATCH, match_at
from ai_detect.ingest.byte_shapes import LONGEST_SHAPE, NO_SHAPE, shape_number
from ai_detect.ingest.byte_texts import EMPTY, GROWTH, IS_SPACE, joined_text, put_text
from ai_detect.ingest.column_arrays import (
    END,
    KEY_BY_FIELD,
    KEY_BY_REGEX,
    KEY_GIVEN,
    LINE,
    LONGEST_KEY,
    MESSAGES,
    OFFSET,
    Columns,
    Layout,
    Learned,
    Lines,
    SessionKey,
    State,
    Tails,
)
from ai_detect.ingest.compiled import any_bits, compiled, copy_bytes
from ai_detect.ingest.line_fields import key_in, time_of
from ai_detect.ingest.line_shapes import (
    CUT,
    CUT_ANEW,
    FIRST,
    HEAD,
    HEAD_END,
    HEADER,
    IS_FRAME,
    IS_PYTHON_FRAME,
    KEY,
    KEY_END,
    KIND,
    LEVEL,
    NO_HEADER,
    NOTHING,
    TIME,
    TIME_END,
    LineShapes,
    put_cut,
    put_known_text,
    put_last_text,
)
from ai_detect.ingest.messages import MAX_TEXT_CHARS
from ai_detect.tables import NO_SESSION, NO_TIME

#: Longer lines are left to Python.
LONGEST_LINE = 1 << 16
ALL_READ, LEFT, FULL, KEYS_FULL = range(4)


@compiled
def scan_files(
    lines: Lines,
    n_files: int,
    layout: Layout,
    session_key: SessionKey,
    learned: Learned,
    shapes: LineShapes,
    keys: DictionaryArrays,
    tails: Tails,
    columns: Columns,
    state: State,
) -> int:
    """Read the lines of the first so many files from the state's row on into the columns.

    Returns ALL_READ, LEFT where the next line is for Python, FULL where the columns or KEYS_FULL where the
    dictionary of keys must grow before it. Where that shows in the middle of a message, all is put back as it was
    before its first line. The last message has its text; of others it may be left out (LineShapes.of_text).
    """
    files, used = lines.files, columns.used
    while True:
        file = files[state.file[0]]
        n_before = used[0]
        status = _scan_lines(lines, file, layout, session_key, learned, shapes, keys, tails, columns, state)
        file[MESSAGES] += used[0] - n_before
        if status != ALL_READ or state.file[0] + 1 >= n_files:
            break
        state.file[0] += 1
        state.last_time[0] = NO_TIME
        state.given[0] += file[MESSAGES] > 0
    last = used[0] - 1
    if last >= 0:
        put_last_text(lines.data, shapes.found, columns.shape, columns.begins, columns.ends, columns.data, used)
    return status


@compiled
def _scan_lines(
    lines: Lines,
    file: np.ndarray,
    layout: Layout,
    session_key: SessionKey,
    learned: Learned,
    shapes: LineShapes,
    keys: DictionaryArrays,
    tails: Tails,
    columns: Columns,
    state: State,
) -> int:
    """`scan_files` of one file, but for the last text."""
    (
        (code, sets, captures, stack),
        is_plain,
        time_group,
        level_group,
        priority_group,
        content_group,
        key_group,
        syslog,
    ) = layout
    kind, (key_code, key_sets, key_captures, key_stack), key_first, is_anchored, n_groups = session_key
    slots, hashes, key_spans, key_words, n_keys = keys
    time_text, is_fixed, is_clock_digit, time_numbers = learned.time
    _, level_words, level_lengths, level_index, n_levels = learned
    joins, (f_code, f_sets, f_captures, f_stack), (p_code, p_sets, p_captures, p_stack), tail, scratch = tails
    out_offset, out_line, out_time, out_level, out_session, out_shape, out_begin, out_end, out, used = columns
    state_row, _, state_given, state_time, state_counts, state_clock, state_last_row = state
    has_shapes, has_texts, _, _, dictionary, seen, all_found, of_text = shapes
    s_slots, s_hashes, s_spans, s_words, s_used = dictionary
    data, line_shapes, bounds, _ = lines
    last_row, offset, first_line = file[END], file[OFFSET], file[LINE]
    # as it was before the last message, where this call has read its first line
    message_row, message_bytes, message_time, message_clock, row_before = -1, 0, 0, 0, 0
    n_blank, n_early, n_continuation = 0, 0, 0
    in_tail, after_python_frame, n_tail = False, False, 0
    status = ALL_READ
    row = state_row[0]
    while row < last_row:
        begin, end = bounds[row] + 1, bounds[row + 1]
        if end - begin > LONGEST_LINE:
            status = LEFT
            break
        line_begin = begin
        if end > begin and data[end - 1] == 13:
            end -= 1
        shape, known = NO_SHAPE, NOTHING
        if has_shapes and 0 < end - begin <= LONGEST_SHAPE:
            shape = shape_number(line_shapes, begin, end - begin, s_slots, s_hashes, s_spans, s_words, s_used, seen)
        found = all_found[max(shape, 0)]
        if shape >= 0:
            known = found[KIND]
        blank = begin
        if known == NOTHING:
            if any_bits(data[begin:end]) >= 128:
                status = LEFT
                break
            while blank < end and IS_SPACE[data[blank]]:
                blank += 1
            if blank == end:
                state_counts[0] += 1
                row += 1
                continue
        elif known == NO_HEADER:
            blank += found[FIRST]
        if used[0] >= len(out_offset) or used[1] + (end - begin + len(scratch)) * GROWTH > len(out):
            status = FULL
            break
        time, level = NO_TIME, np.int8(0)
        time_begin, time_end = begin, begin
        text_begin, text_end = begin, end
        is_kept = shape >= 0 and known == NOTHING
        if not is_plain:
            if known == NOTHING:
                matched = match_at(code, sets, captures, stack, 0, data, begin, end, begin, True)
            else:
                matched = end if known == HEADER else NO_MATCH
            if matched == NO_MATCH and joins and message_row >= 0:
                if not in_tail:
                    in_tail, after_python_frame, n_tail = True, False, 0
                    put_last_text(data, all_found, out_shape, out_begin, out_end, out, used)
                state_counts[2] += 1
                last = used[0] - 1
                key_begin, key_end = begin, begin
                if kind == KEY_BY_REGEX and (known == NOTHING or out_session[last] == NO_SESSION):
                    if known == NOTHING:
                        key_begin, key_end = key_in(
                            key_code, key_sets, key_captures, key_stack, key_first, is_anchored, n_groups, data, begin,
                            end,
                        )  # fmt: skip
                    else:
                        key_begin, key_end = begin + found[KEY], begin + found[KEY_END]
                    n_key = key_end - key_begin
                    if key_begin == GAVE_UP or n_key > LONGEST_KEY:
                        status = LEFT
                        break
                    if n_key > 0 and out_session[last] == NO_SESSION:
                        session = number_of(slots, hashes, key_spans, key_words, n_keys, data, key_begin, n_key)
                        if session == NO_ROOM:
                            status = KEYS_FULL
                            break
                        out_session[last] = session
                row += 1
                if after_python_frame and blank >= begin + 4 and any_bits(data[begin : begin + 4]) == 32:
                    after_python_frame = False  # the source line that Python shows below a frame
                    continue
                if known == NOTHING:
                    is_python = match_at(p_code, p_sets, p_captures, p_stack, 0, data, begin, end, begin, False)
                    is_frame = match_at(f_code, f_sets, f_captures, f_stack, 0, data, begin, end, begin, False)
                    if shape >= 0 and is_python != GAVE_UP and is_frame != GAVE_UP:
                        found[KIND], found[IS_FRAME], found[IS_PYTHON_FRAME] = NO_HEADER, is_frame >= 0, is_python >= 0
                        found[KEY], found[KEY_END], found[FIRST] = key_begin - begin, key_end - begin, blank - begin
                else:
                    is_frame, is_python = found[IS_FRAME] - 1, found[IS_PYTHON_FRAME] - 1  # -1 is NO_MATCH
                after_python_frame = is_python >= 0
                if is_frame >= 0:
                    continue
                if is_python == GAVE_UP or is_frame == GAVE_UP or n_tail + end - begin + 1 > len(tail):
                    status = LEFT
                    break
                tail[n_tail] = 32
                n_tail += 1 + copy_bytes(data[begin:end], tail[n_tail + 1 :])
                continue
            if matched < 0:
                status = LEFT
                break
            if in_tail:
                last = used[0] - 1
                text = out[out_begin[last] : out_end[last]]
                if len(text) == len(EMPTY) and text[0] == 60:  # <
                    is_empty = True
                    for i in range(len(EMPTY)):
                        is_empty = is_empty and text[i] == EMPTY[i]
                    if is_empty:
                        text = text[:0]
                n_joined = joined_text(text, tail[:n_tail], scratch)
                n_key = 0
                if out_session[last] >= 0 and kind != KEY_GIVEN:
                    n_key = key_spans[out_session[last], 1]
                    key_word = key_spans[out_session[last], 0]
                    for i in range(n_key):
                        byte = key_words[key_word + (i >> 3)] >> np.uint64(8 * (i & 7))
                        scratch[n_joined + i] = np.uint8(byte & np.uint64(255))
                text_after = put_text(scratch, 0, n_joined, n_joined, n_joined + n_key, False, out, out_begin[last])
                if text_after - out_begin[last] + n_joined > MAX_TEXT_CHARS:
                    status = LEFT
                    break
                out_end[last] = used[1] = text_after
                out_shape[last] = NO_SHAPE
                in_tail = False
            clock_before = state_clock[0]
            time_begin, time_end = captures[2 * time_group], captures[2 * time_group + 1]
            if known == HEADER:
                time_begin, time_end = begin + found[TIME], begin + found[TIME_END]
            time = time_of(data, time_begin, time_end, time_text, is_fixed, is_clock_digit, time_numbers, state_clock)
            if time == NO_TIME:
                status = LEFT
                break
            if known == HEADER:
                level = np.int8(found[LEVEL])
            elif level_group >= 0 and captures[2 * level_group] >= 0:
                level_begin = captures[2 * level_group]
                length = captures[2 * level_group + 1] - level_begin
                word = -1
                for i in range(n_levels[0]):
                    if level_lengths[i] == length:
                        same = True
                        for j in range(length):
                            if level_words[i, j] != data[level_begin + j]:
                                same = False
                                break
                        if same:
                            word = i
                            break
                if word < 0:
                    status = LEFT
                    break
                level = level_index[word]
                for i in range(length):
                    is_kept = is_kept and not 48 <= data[level_begin + i] <= 57
            elif priority_group >= 0 and captures[2 * priority_group] >= 0:
                priority = 0
                for i in range(captures[2 * priority_group], captures[2 * priority_group + 1]):
                    priority = priority * 10 + data[i] - 48
                level = syslog[priority & 7]
                is_kept = False
            text_begin, text_end = captures[2 * content_group], captures[2 * content_group + 1]
        else:
            clock_before = state_clock[0]
        if known == HEADER:
            text_begin, text_end = begin + found[HEAD], begin + found[HEAD_END]
        if text_end - text_begin > MAX_TEXT_CHARS:
            status = LEFT
            break
        key_begin, key_end = begin, begin
        if known == HEADER:
            key_begin, key_end = begin + found[KEY], begin + found[KEY_END]
        elif kind == KEY_BY_REGEX:
            key_begin, key_end = key_in(
                key_code, key_sets, key_captures, key_stack, key_first, is_anchored, n_groups, data, begin, end
            )
        elif kind == KEY_BY_FIELD and captures[2 * key_group] >= 0:
            key_begin, key_end = captures[2 * key_group], captures[2 * key_group + 1]
        session = NO_SESSION
        n_key = key_end - key_begin
        if key_begin == GAVE_UP or n_key > LONGEST_KEY:
            status = LEFT
            break
        if kind == KEY_GIVEN:
            session = state_given[0]
        elif n_key > 0:
            session = number_of(slots, hashes, key_spans, key_words, n_keys, data, key_begin, n_key)
            if session == NO_ROOM:
                status = KEYS_FULL
                break
        begins_text = kind == KEY_BY_REGEX and key_begin - begin == (end - begin) - (text_end - text_begin)
        text_at = text_after = used[1]
        shows_text = has_texts and known == HEADER and found[CUT] != CUT_ANEW
        has_text = not shows_text or of_text[shape, 0] <= 0
        if not has_text:
            pass
        elif known == HEADER and found[CUT] != CUT_ANEW:
            text_after = put_known_text(data, begin, found, out, text_at)
        else:
            text_after = put_text(data, text_begin, text_end, key_begin, key_end, begins_text, out, text_at)
        if text_after - text_at + text_end - text_begin > MAX_TEXT_CHARS:  # it may be cut before blanks go
            status = LEFT
            break
        if is_kept:
            found[KIND], found[LEVEL] = HEADER, level
            found[TIME], found[TIME_END] = time_begin - begin, time_end - begin
            found[KEY], found[KEY_END] = key_begin - begin, key_end - begin
            put_cut(data, line_shapes, begin, text_begin, text_end, key_begin, key_end, begins_text, found)
        message_row, message_bytes, message_time, message_clock = row, text_at, state_time[0], clock_before
        n_blank, n_early, n_continuation = state_counts[0], state_counts[1], state_counts[2]
        row_before = state_last_row[0]
        if time != NO_TIME:
            state_counts[1] += time < state_time[0]
            state_time[0] = time
        n = used[0]
        state_last_row[0] = row
        out_offset[n] = offset + line_begin
        out_line[n] = first_line + row
        out_time[n] = time
        out_level[n] = level
        out_session[n] = session
        out_shape[n] = shape if shows_text else NO_SHAPE
        out_begin[n] = text_at if has_text else begin
        out_end[n] = text_after if has_text else begin
        used[0] = n + 1
        used[1] = text_after
        row += 1
    if in_tail:  # not to its end: it goes on in the next block, or only Python can join it
        status = LEFT if status == ALL_READ else status
        row = message_row
        used[0] -= 1
        used[1] = message_bytes
        state_time[0], state_clock[0], state_last_row[0] = message_time, message_clock, row_before
        state_counts[0], state_counts[1], state_counts[2] = n_blank, n_early, n_continuation
    state_row[0] = row
    return status
