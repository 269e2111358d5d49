//! What proves which version rows a secret has, at the same price however many there are.
//!
//! A secret's row must prove the set of its version rows: that none is missing, added, exchanged or put back to what
//! it once was. A code over all of them would cost as much as there are versions, at every change. So the row holds a
//! sum, from which a change takes the rows as they were and to which it adds them as they are now:
//!
//! ```text
//! member(row) = HMAC-SHA256(member key, code of the version's row)             as a number of 256 bits
//! sum         = Σ member(row) over all rows of the secret                      mod 2^256
//! commitment  = nonce (24 random bytes, new at each change) | sum + HMAC-SHA256(metadata key, bound("versions", path, nonce))
//! ```
//!
//! It is MSet-Add-Hash of Clarke, Devadas, van Dijk, Gassend and Suh, "Incremental Multiset Hash Functions and Their
//! Application to Memory Integrity Checking" (ASIACRYPT 2003), over codes that already bind store, path, number and
//! record, and lies within the record that the secret's own code proves. Three things make it hold against someone who
//! holds the database, has every older copy of it, and has no key:
//!
//! - **Members are never stored.** Were the codes beside the rows the summands, he could look for another choice among
//!   old and new copies of the rows with the same sum: with thousands of versions that is a dense subset-sum problem,
//!   which Wagner's generalised birthday attack solves in about 2^40 steps in spite of the 256 bits. A member is made
//!   from the code with a key of its own, and he never sees one.
//! - **Sums are never stored either**, only with a fresh pseudorandom number added. The difference of two sums would be
//!   the members of what one change did.
//! - So the members stay, for all he can tell, independent random numbers: another set of rows has the stored sum with a
//!   chance of 2^-256 for each try, and every try is an open of the store.
//!
//! A number occurs once in a secret (the table's primary key); if a damaged table shows a row twice, it counts twice.
//! An addition and not an exclusive or, so that this changes the sum. A Merkle tree would prove the same with a row
//! for each of its nodes and a path of them written at each change; nobody here asks for the proof of a single row.
//!
//! What it cannot tell, as no code within the database can: a secret put back as a whole, with its row and all rows of
//! its versions, to what it was once.

use super::seal::{CODE_BYTES, Code, Keys};
use crate::store::StoreFault;
use crate::store::sealed::fill_random;

const NONCE_BYTES: usize = 24;
/// Length of a commitment, in bytes.
pub(super) const COMMITMENT_BYTES: usize = NONCE_BYTES + CODE_BYTES;

/// The sum of the members of a secret's version rows.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct VersionSum(Number);

/// A number of 256 bits; the least significant limb first.
type Number = [u64; 4];

impl VersionSum {
    /// With the row that `code` proves.
    pub(super) fn with(self, keys: &Keys, code: &Code) -> Self {
        Self(plus(self.0, number(&keys.member(code))))
    }

    /// Without the row that `code` proves.
    pub(super) fn without(self, keys: &Keys, code: &Code) -> Self {
        Self(plus(self.0, negative(number(&keys.member(code)))))
    }

    /// What the secret's row holds for it.
    pub(super) fn commit(self, keys: &Keys, path: &str) -> Result<[u8; COMMITMENT_BYTES], StoreFault> {
        let mut out = [0; COMMITMENT_BYTES];
        let (nonce, blinded) = out.split_at_mut(NONCE_BYTES);
        fill_random(nonce)?;
        let sum = plus(self.0, number(&keys.blinding_code(path, nonce)));
        for (place, limb) in blinded.chunks_exact_mut(8).zip(sum) {
            place.copy_from_slice(&limb.to_le_bytes());
        }
        Ok(out)
    }

    /// Reads what the secret's row holds.
    pub(super) fn of_commitment(keys: &Keys, path: &str, commitment: &[u8; COMMITMENT_BYTES]) -> Self {
        let (nonce, blinded) = commitment.split_at(NONCE_BYTES);
        let blind = number(&keys.blinding_code(path, nonce));
        let mut code = [0; CODE_BYTES];
        code.copy_from_slice(blinded);
        Self(plus(number(&code), negative(blind)))
    }
}

fn number(code: &Code) -> Number {
    let mut limbs =
        code.chunks_exact(8).map(|limb| limb.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte)));
    std::array::from_fn(|_| limbs.next().unwrap_or_default())
}

fn plus(one: Number, other: Number) -> Number {
    let mut carry = false;
    std::array::from_fn(|at| {
        let (sum, over) = one[at].overflowing_add(other[at]);
        let (sum, over_again) = sum.overflowing_add(u64::from(carry));
        carry = over || over_again;
        sum
    })
}

fn negative(of: Number) -> Number {
    plus(of.map(|limb| !limb), [1, 0, 0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sealed::Key;

    fn keys() -> Keys {
        Keys::create(Key::generate().unwrap()).unwrap().0
    }

    #[test]
    fn numbers_are_added_and_taken_away_across_limbs() {
        const MAX: u64 = u64::MAX;
        assert_eq!(plus([MAX, MAX, 0, 0], [1, 0, 0, 0]), [0, 0, 1, 0]);
        assert_eq!(plus([MAX; 4], [1, 0, 0, 0]), [0; 4]);
        assert_eq!(plus([MAX, 0, MAX, 5], [MAX, 0, 1, 6]), [MAX - 1, 1, 0, 12]);
        assert_eq!(negative([0; 4]), [0; 4]);
        for of in [[1, 0, 0, 0], [MAX, 1, 0, MAX], [0, 0, 0, 7]] {
            assert_eq!(plus(of, negative(of)), [0; 4]);
        }
        let mut code = [0; CODE_BYTES];
        (code[0], code[8], code[31]) = (1, 2, 0x80);
        assert_eq!(number(&code), [1, 2, 0, 1 << 63]);
    }

    #[test]
    fn a_sum_is_of_the_rows_that_are_there_in_any_order_and_of_no_others() {
        let keys = keys();
        let code = |number| keys.version_code("s", number, b"record");
        let sum = |numbers: &[u32]| {
            numbers.iter().fold(VersionSum::default(), |sum, number| sum.with(&keys, &code(*number)))
        };
        assert!(sum(&[1, 2, 3]) == sum(&[3, 1, 2]));
        assert!(sum(&[1, 2, 3]).without(&keys, &code(2)) == sum(&[1, 3]));
        assert!(sum(&[1]).without(&keys, &code(1)) == VersionSum::default());
        for other in [&[1, 2][..], &[1, 2, 4], &[1, 2, 3, 3], &[1, 1, 2, 2, 3, 3], &[]] {
            assert!(sum(&[1, 2, 3]) != sum(other), "{other:?}");
        }
    }

    #[test]
    fn a_commitment_shows_neither_sum_nor_what_was_added() {
        let keys = keys();
        let code = keys.version_code("s", 1, b"record");
        let empty = VersionSum::default();
        let sum = empty.with(&keys, &code);
        let (once, again) = (sum.commit(&keys, "s").unwrap(), sum.commit(&keys, "s").unwrap());
        assert_ne!(once, again);
        assert!(VersionSum::of_commitment(&keys, "s", &once) == sum);
        assert!(VersionSum::of_commitment(&keys, "s", &again) == sum);
        assert!(VersionSum::of_commitment(&keys, "t", &once) != sum, "it is bound to the path");
        let shown =
            |commitment: &[u8; COMMITMENT_BYTES]| number(commitment[NONCE_BYTES..].try_into().unwrap());
        let member = number(&keys.member(&code));
        assert_ne!(shown(&once), member);
        assert_ne!(plus(shown(&once), negative(shown(&empty.commit(&keys, "s").unwrap()))), member);
        assert_ne!(keys.member(&code), code);
    }
}
