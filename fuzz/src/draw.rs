//! Choices out of the fuzzer's bytes. At the end of them every choice is zero.

/// What is left of the input.
pub struct Draw<'a>(&'a [u8]);

impl<'a> Draw<'a> {
    pub fn new(input: &'a [u8]) -> Self {
        Draw(input)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    pub fn u32(&mut self) -> u32 {
        u32::from(self.u16()) << 16 | u32::from(self.u16())
    }

    /// One of `values`.
    pub fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[usize::from(self.byte()) % values.len()]
    }

    /// The next `bytes`, or as many as there are.
    pub fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Up to 255 bytes, their number first.
    pub fn short(&mut self) -> &'a [u8] {
        let bytes = usize::from(self.byte());
        self.take(bytes)
    }

    /// [`Draw::short`] as text, with what is not UTF-8 replaced.
    pub fn text(&mut self) -> String {
        String::from_utf8_lossy(self.short()).into_owned()
    }

    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

/// Cuts `bytes` into pieces of lengths that `seed` draws: short ones often, long ones sometimes.
pub fn cut(bytes: &[u8], seed: u8) -> Vec<&[u8]> {
    let mut state = u64::from(seed) << 8 | 0x9e37_79b9_0000_00b5;
    let mut pieces = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let longest = [1, 3, 12, 200, 5_000][(state >> 60) as usize % 5];
        let length = 1 + (state >> 20) as usize % longest;
        let (piece, after) = rest.split_at(length.min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces
}
