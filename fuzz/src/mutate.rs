//! Changes to inputs, drawn from a seed: what a test does in place of a fuzzer.

/// What makes a difference to those who read it.
const WORDS: [&[u8]; 22] = [
    b"\x00",
    b"\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\x80\x80\x80\x08",
    b"\xc0\x0c",
    b"\r\n",
    b"\n",
    b",",
    b":",
    b"/",
    b"..",
    b"%2e",
    b"%25",
    b";",
    b"\"",
    b"{",
    b"[",
    b"0",
    b"-1",
    b"18446744073709551616",
    b"1e309",
    b"\xf0\x9f\x9a\x80",
];

/// Longest input.
const MAX: usize = 16 * 1024;

/// A sequence of numbers that a seed gives (xorshift).
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// From a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`, which is 0 only for `end` 0.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % end).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.next() & 0xff).unwrap_or(0)
    }
}

/// An input like one of these.
pub fn mutated(inputs: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = pick(inputs, dice);
    for _ in 0..=dice.below(6) {
        let at = dice.below(bytes.len() + 1);
        let end = bytes.len().min(at + dice.below(16));
        match dice.below(8) {
            0 => drop(bytes.drain(at..end)),
            1 => bytes.insert(at, dice.byte()),
            2 | 3 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << dice.below(8);
                }
            }
            4 => {
                let word = WORDS.get(dice.below(WORDS.len())).copied();
                bytes.splice(at..at, word.unwrap_or_default().to_vec());
            }
            5 => {
                let part = bytes.get(at..end).unwrap_or_default().to_vec();
                for _ in 0..=dice.below(4) {
                    bytes.splice(at..at, part.clone());
                }
            }
            6 => {
                let other = pick(inputs, dice);
                let from = dice.below(other.len() + 1);
                let part = other.get(from..).unwrap_or_default().to_vec();
                bytes.splice(at.., part);
            }
            _ => bytes.truncate(at),
        }
    }
    bytes.truncate(MAX);
    bytes
}

fn pick(inputs: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let at = dice.below(inputs.len());
    inputs.get(at).cloned().unwrap_or_default()
}
