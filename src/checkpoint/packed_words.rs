//! Codes of 2 to 8 bits in 32-bit words, and columns in activation order: what the formats of several parts share.

/// Codes of `bits` bits from a stream of bits, lowest first, less the offset `2^(bits-1)`. Words of a little-endian
/// file are such a stream.
///
/// # Panics
/// When the stream is too short for `codes`.
pub(super) fn unpack(packed: &[u8], bits: u8, codes: &mut [i8]) {
    let mask = (1u16 << bits) - 1;
    let offset = 1i16 << (bits - 1);
    for (at, code) in codes.iter_mut().enumerate() {
        let bit = at * usize::from(bits);
        let low = packed[bit / 8];
        let high = packed.get(bit / 8 + 1).copied().unwrap_or(0);
        let value = u16::from_le_bytes([low, high]) >> (bit % 8) & mask;
        *code = (value as i16 - offset) as i8;
    }
}

/// Column `at` of a matrix of words with `columns` columns, as bytes for [`unpack`].
pub(super) fn column(stored: &[u8], columns: usize, at: usize) -> Vec<u8> {
    stored.as_chunks::<4>().0.iter().skip(at).step_by(columns).flatten().copied().collect()
}

/// The transpose of a matrix with `columns` columns.
pub(super) fn transposed<T: Copy>(values: &[T], columns: usize) -> Vec<T> {
    (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns).copied()).collect()
}

/// Stored order of columns whose groups `g_idx` (i32, one for each column) tells: by group, else as they are. `None`
/// when the groups already follow each other.
///
/// # Errors
/// Groups out of range, and groups that are not all of `group_size` columns.
pub(super) fn order_by_group(g_idx: &[u8], group_size: usize) -> Result<Option<Vec<u32>>, String> {
    let groups: Vec<i32> = g_idx.as_chunks::<4>().0.iter().map(|&word| i32::from_le_bytes(word)).collect();
    let mut sizes = vec![0usize; groups.len() / group_size];
    for &group in &groups {
        match usize::try_from(group).ok().and_then(|group| sizes.get_mut(group)) {
            Some(size) => *size += 1,
            None => return Err(format!("g_idx names group {group}, of {}", sizes.len())),
        }
    }
    if let Some((group, size)) = sizes.iter().enumerate().find(|&(_, &size)| size != group_size) {
        return Err(format!(
            "g_idx gives group {group} {size} columns; supported: groups of group_size {group_size} columns each"
        ));
    }
    if groups.is_sorted() {
        return Ok(None);
    }
    let mut order: Vec<u32> = (0..groups.len() as u32).collect();
    order.sort_by_key(|&column| groups[column as usize]);
    Ok(Some(order))
}

/// Puts the columns of every row into stored order.
pub(super) fn reorder(codes: &mut [i8], order: &[u32]) {
    for row in codes.chunks_exact_mut(order.len()) {
        let published = row.to_vec();
        row.iter_mut().zip(order).for_each(|(code, &column)| *code = published[column as usize]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_codes_come_back_at_every_width() {
        for bits in 2..=8u8 {
            let (low, high) = (-(1i32 << (bits - 1)), (1i32 << (bits - 1)) - 1);
            let codes: Vec<i8> = (0..70).map(|i| (low + (i * 7) % (high - low + 1)) as i8).collect();
            // Written as a 32-bit word format, to hold the byte stream against its definition.
            let mut words = vec![0u32; (codes.len() * usize::from(bits)).div_ceil(32)];
            for (at, &code) in codes.iter().enumerate() {
                for bit in 0..usize::from(bits) {
                    let set = (i32::from(code) - low) as u32 >> bit & 1;
                    let place = at * usize::from(bits) + bit;
                    words[place / 32] |= set << (place % 32);
                }
            }
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let mut read = vec![0; codes.len()];
            unpack(&bytes, bits, &mut read);
            assert_eq!(read, codes, "{bits} bits");
        }
    }

    #[test]
    fn columns_are_ordered_by_group_and_keep_their_order_inside() {
        let bytes = |groups: &[i32]| -> Vec<u8> { groups.iter().flat_map(|group| group.to_le_bytes()).collect() };
        let of = |groups: &[i32], size| order_by_group(&bytes(groups), size);
        assert_eq!(of(&[0, 0, 1, 1, 2, 2], 2), Ok(None));
        assert_eq!(of(&[0, 0, 0, 0], 4), Ok(None));
        let order = of(&[2, 0, 1, 0, 2, 1], 2).unwrap().unwrap();
        assert_eq!(order, [1, 3, 2, 5, 0, 4]);
        let mut codes = [10, 11, 12, 13, 14, 15, 20, 21, 22, 23, 24, 25];
        reorder(&mut codes, &order);
        assert_eq!(codes, [11, 13, 12, 15, 10, 14, 21, 23, 22, 25, 20, 24]);
        assert!(of(&[0, 0, 1, 3], 2).unwrap_err().contains("names group 3, of 2"));
        assert!(of(&[0, 0, 1, -1], 2).unwrap_err().contains("names group -1"));
        assert!(of(&[0, 0, 0, 1], 2).unwrap_err().contains("group 0 3 columns"));
    }
}
