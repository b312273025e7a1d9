//! Numbers that look random and are the same in every version of this program, as files and other programs rely on them.

/// Outputs of SplitMix64 (Steele, Lea & Flood 2014) from a state of `seed`.
pub fn split_mix(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn outputs_are_those_of_the_published_code() {
        // From `splitmix64.c` (S. Vigna) with a state of 1234567.
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(super::split_mix(1_234_567).take(3).collect::<Vec<_>>(), expected);
    }
}
