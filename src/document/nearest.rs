//! Which of the known words someone meant: for "did you mean".

/// The word in `known` that is nearest to `word`, if any is near enough to be a likely slip.
#[must_use]
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Longer words than any key of ours are no slip, and the distance costs the product of both lengths.
    if word.len() > 64 {
        return None;
    }
    let allowed = (word.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance: how many characters to insert, remove or replace.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, left) in one.chars().enumerate() {
        let mut diagonal = at;
        let mut before = at + 1;
        for (column, right) in other.iter().enumerate() {
            let above = row.get(column + 1).copied().unwrap_or(usize::MAX - 1);
            let cell = (diagonal + usize::from(left != *right)).min(above + 1).min(before + 1);
            if let Some(place) = row.get_mut(column) {
                *place = before;
            }
            diagonal = above;
            before = cell;
        }
        if let Some(place) = row.last_mut() {
            *place = before;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_word_and_a_stranger_finds_none() {
        let known = ["read", "list", "admin", "stages", "fields"];
        assert_eq!(nearest("raed", known), None);
        assert_eq!(nearest("reed", known), Some("read"));
        assert_eq!(nearest("stage", known), Some("stages"));
        assert_eq!(nearest("fielsd", known), Some("fields"));
        assert_eq!(nearest("template", known), None);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
    }
}
