"""Linear-angular attention with its convolution as Triton kernels, forward and backward.

Per head, with qn = q / |q|, kn = k / |k| and rows without a direction left zero:

    y   = v / 2 + qn (kn^T v) / pi + added
    out = y / |y| + sum over taps t of w[t] * v[token + offset(t)]

`contexts` contracts keys with values, `output` mixes the values of 64 queries at a time;
`gradients_of_queries` walks over queries and `gradients_of_keys` over keys. Numbers are read in
their own type and computed in float32. Channels are padded to a power of two, and programs that
share a sum write their parts of it apart, so that equal inputs give equal bits.

Importing this needs Triton. With TRITON_INTERPRET=1 before the first import of Triton, kernels run
in its interpreter, on the CPU.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import triton
import triton.language as tl


INVERSE_PI: tl.constexpr = tl.constexpr(0.3183098861837907)
SMALLEST_SQUARED_NORM: tl.constexpr = tl.constexpr(1e-24)


@triton.jit
def _rows(x, token, channel, inside, step, size: tl.constexpr):
    """Return rows of `size` channels as float32, those outside and the padding as zeros."""
    at = x + token[:, None] * step + channel[None, :]
    return tl.load(at, mask=inside[:, None] & (channel < size)[None, :], other=0.0).to(tl.float32)


@triton.jit
def _store(x, rows, token, channel, inside, step, size: tl.constexpr):
    at = x + token[:, None] * step + channel[None, :]
    shown = inside[:, None] & (channel < size)[None, :]
    tl.store(at, rows.to(x.dtype.element_ty), mask=shown)


@triton.jit
def _square(x, height, width, height_size: tl.constexpr, width_size: tl.constexpr):
    """Return a whole matrix of float32, padded with zeros."""
    shown = (height < height_size)[:, None] & (width < width_size)[None, :]
    return tl.load(x + height[:, None] * width_size + width[None, :], mask=shown, other=0.0)


@triton.jit
def _inverse_norm(x):
    squared = tl.sum(x * x, 1)
    inverse = 1.0 / tl.sqrt(tl.maximum(squared, SMALLEST_SQUARED_NORM))
    return tl.where(squared > SMALLEST_SQUARED_NORM, inverse, 0.0)


@triton.jit
def _through_norm(gradient, normed, inverse):
    """Return the gradient of x from that of normed = x / |x|, where inverse = 1 / |x|."""
    along = tl.sum(gradient * normed, 1)
    return (gradient - normed * along[:, None]) * inverse[:, None]


@triton.jit
def _shifted(token, inside, down, across, prefix, height, width):
    """Return tokens so many rows down and columns across, and which of them are on the grid."""
    place = token - prefix
    row = place // width + down
    column = place % width + across
    there = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return token + down * width + across, inside & (place >= 0) & there


@triton.jit
def contexts(
    k, v, parts, heads, keys,
    k_image, k_head, k_token, v_image, v_head, v_token,
    size: tl.constexpr, value_size: tl.constexpr,
    padded: tl.constexpr, value_padded: tl.constexpr,
    rows: tl.constexpr, tiles: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Write kn^T v / pi over `tiles` tiles of keys; parts: (image, head, part, size, value)."""
    pair = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * rows * tiles
    image, head = pair // heads, pair % heads
    k += image * k_image + head * k_head
    v += image * v_image + head * v_head
    channel, value_channel = tl.arange(0, padded), tl.arange(0, value_padded)
    total = tl.zeros((padded, value_padded), tl.float32)
    for tile in range(tiles):
        token = first + tile * rows + tl.arange(0, rows)
        inside = token < keys
        key = _rows(k, token, channel, inside, k_token, size)
        value = _rows(v, token, value_channel, inside, v_token, value_size)
        normed = key * _inverse_norm(key)[:, None]
        total += tl.dot(tl.trans(normed), value, input_precision=precision)
    parts += (pair * tl.num_programs(1) + tl.program_id(1)) * size * value_size
    _store(parts, total * INVERSE_PI, channel, value_channel, channel < size, value_size,
           value_size)  # fmt: skip


@triton.jit
def output(
    q, own, added, context, taps, out, heads, queries, prefix, height, width,
    q_image, q_head, q_token, own_image, own_head, own_token,
    added_image, added_head, added_token,
    size: tl.constexpr, value_size: tl.constexpr,
    padded: tl.constexpr, value_padded: tl.constexpr, down: tl.constexpr, across: tl.constexpr,
    has_added: tl.constexpr, rows: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Write y / |y| and the convolution; out: (image, query, head, value), `own` the v of each."""
    pair = tl.program_id(0).to(tl.int64)
    image, head = pair // heads, pair % heads
    token = tl.program_id(1) * rows + tl.arange(0, rows)
    inside = token < queries
    q += image * q_image + head * q_head
    own += image * own_image + head * own_head
    channel, value_channel = tl.arange(0, padded), tl.arange(0, value_padded)
    query = _rows(q, token, channel, inside, q_token, size)
    normed = query * _inverse_norm(query)[:, None]
    square = _square(context + pair * size * value_size, channel, value_channel, size, value_size)
    y = 0.5 * _rows(own, token, value_channel, inside, own_token, value_size)
    y += tl.dot(normed, square, input_precision=precision)
    if has_added:
        added += image * added_image + head * added_head
        y += _rows(added, token, value_channel, inside, added_token, value_size)
    y *= _inverse_norm(y)[:, None]
    taps += head * down * across * value_size
    for tap in range(down * across):
        moved, there = _shifted(token, inside, tap // across - down // 2,
                                tap % across - across // 2, prefix, height, width)  # fmt: skip
        weight = tl.load(taps + tap * value_size + value_channel, mask=value_channel < value_size,
                         other=0.0)  # fmt: skip
        y += weight[None, :] * _rows(own, moved, value_channel, there, own_token, value_size)
    out += (image * queries * heads + head) * value_size
    _store(out, y, token, value_channel, inside, heads * value_size, value_size)


@triton.jit
def gradients_of_queries(
    q, own, added, context, taps, gradient, dq, down_gradient, dadded, dparts, dtaps,
    heads, queries, prefix, height, width,
    q_image, q_head, q_token, own_image, own_head, own_token,
    added_image, added_head, added_token, gradient_image, gradient_head, gradient_token,
    dq_image, dq_head, dq_token, down_image, down_head, down_token,
    dadded_image, dadded_head, dadded_token,
    size: tl.constexpr, value_size: tl.constexpr,
    padded: tl.constexpr, value_padded: tl.constexpr, down: tl.constexpr, across: tl.constexpr,
    has_added: tl.constexpr, rows: tl.constexpr, tiles: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Write the gradients of q, own and added, and this program's part of two sums.

    dparts: of the contexts, (image, head, part, size, value). dtaps: of the filters,
    (image, head, part, tap, value).
    """
    pair = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * rows * tiles
    image, head = pair // heads, pair % heads
    q += image * q_image + head * q_head
    own += image * own_image + head * own_head
    gradient += image * gradient_image + head * gradient_head
    dq += image * dq_image + head * dq_head
    down_gradient += image * down_image + head * down_head
    if has_added:
        added += image * added_image + head * added_head
        dadded += image * dadded_image + head * dadded_head
    taps += head * down * across * value_size
    channel, value_channel = tl.arange(0, padded), tl.arange(0, value_padded)
    square = _square(context + pair * size * value_size, channel, value_channel, size, value_size)
    total = tl.zeros((padded, value_padded), tl.float32)
    for tile in range(tiles):
        token = first + tile * rows + tl.arange(0, rows)
        inside = token < queries
        query = _rows(q, token, channel, inside, q_token, size)
        inverse = _inverse_norm(query)
        normed = query * inverse[:, None]
        y = 0.5 * _rows(own, token, value_channel, inside, own_token, value_size)
        y += tl.dot(normed, square, input_precision=precision)
        if has_added:
            y += _rows(added, token, value_channel, inside, added_token, value_size)
        y_inverse = _inverse_norm(y)
        given = _rows(gradient, token, value_channel, inside, gradient_token, value_size)
        dy = _through_norm(given, y * y_inverse[:, None], y_inverse)
        if has_added:
            _store(dadded, dy, token, value_channel, inside, dadded_token, value_size)
        dnormed = tl.dot(dy, tl.trans(square), input_precision=precision)
        dquery = _through_norm(dnormed, normed, inverse)
        _store(dq, dquery, token, channel, inside, dq_token, size)
        total += tl.dot(tl.trans(normed), dy, input_precision=precision)
        down_rows = 0.5 * dy
        for tap in range(down * across):  # the filter backwards
            moved, there = _shifted(token, inside, down // 2 - tap // across,
                                    across // 2 - tap % across, prefix, height,
                                    width)  # fmt: skip
            weight = tl.load(taps + tap * value_size + value_channel,
                             mask=value_channel < value_size, other=0.0)  # fmt: skip
            down_rows += weight[None, :] * _rows(gradient, moved, value_channel, there,
                                                 gradient_token, value_size)  # fmt: skip
        _store(down_gradient, down_rows, token, value_channel, inside, down_token, value_size)
    part = pair * tl.num_programs(1) + tl.program_id(1)
    _store(dparts + part * size * value_size, total * INVERSE_PI, channel, value_channel,
           channel < size, value_size, value_size)  # fmt: skip
    dtaps += part * down * across * value_size
    for tap in range(down * across):  # its rows were just read and lie in the cache
        dtap = tl.zeros((value_padded,), tl.float32)
        for tile in range(tiles):
            token = first + tile * rows + tl.arange(0, rows)
            moved, there = _shifted(token, token < queries, tap // across - down // 2,
                                    tap % across - across // 2, prefix, height,
                                    width)  # fmt: skip
            given = _rows(gradient, token, value_channel, there, gradient_token, value_size)
            other = _rows(own, moved, value_channel, there, own_token, value_size)
            dtap += tl.sum(given * other, 0)
        tl.store(dtaps + tap * value_size + value_channel, dtap, mask=value_channel < value_size)


@triton.jit
def gradients_of_keys(
    k, v, dcontext, dk, dv, heads, keys,
    k_image, k_head, k_token, v_image, v_head, v_token,
    dk_image, dk_head, dk_token, dv_image, dv_head, dv_token,
    size: tl.constexpr, value_size: tl.constexpr,
    padded: tl.constexpr, value_padded: tl.constexpr,
    shared: tl.constexpr, rows: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Write the gradients of k and v; `shared` adds to what the queries left in that of v."""
    pair = tl.program_id(0).to(tl.int64)
    image, head = pair // heads, pair % heads
    token = tl.program_id(1) * rows + tl.arange(0, rows)
    inside = token < keys
    k += image * k_image + head * k_head
    v += image * v_image + head * v_head
    dk += image * dk_image + head * dk_head
    dv += image * dv_image + head * dv_head
    channel, value_channel = tl.arange(0, padded), tl.arange(0, value_padded)
    square = _square(dcontext + pair * size * value_size, channel, value_channel, size, value_size)
    key = _rows(k, token, channel, inside, k_token, size)
    value = _rows(v, token, value_channel, inside, v_token, value_size)
    inverse = _inverse_norm(key)
    normed = key * inverse[:, None]
    dnormed = tl.dot(value, tl.trans(square), input_precision=precision)
    _store(dk, _through_norm(dnormed, normed, inverse), token, channel, inside, dk_token, size)
    dvalue = tl.dot(normed, square, input_precision=precision)
    if shared:
        dvalue += _rows(dv, token, value_channel, inside, dv_token, value_size)
    _store(dv, dvalue, token, value_channel, inside, dv_token, value_size)
