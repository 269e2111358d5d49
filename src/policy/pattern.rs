//! Path patterns: `*` stands for one whole name or part of one, `**` for one or more whole names, the rest for itself.

use crate::model::{NameFault, SecretPath};

/// Most names a pattern may have. A path of 1024 bytes has at most 512; no one writes half as many stars.
const ELEMENTS_MAX: usize = 128;

/// Why a pattern is refused, and what to write instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternFault {
    /// `**` within a name.
    #[error(
        "\"**\" stands for whole names and cannot be part of one: write a/**/b, or a single * within a name"
    )]
    StarsWithinName,
    /// A part is no name.
    #[error(transparent)]
    Name(#[from] NameFault),
    /// Too many names.
    #[error("the pattern has more than 128 names: shorten it")]
    Long,
}

/// What one place of a pattern lets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Element {
    /// Exactly this name.
    Name(Box<str>),
    /// A name of this shape: `*` is any number of characters.
    Shape(Box<str>),
    /// Any one name.
    AnyName,
    /// Any number of names, also none. `**` is this after [`Element::AnyName`].
    AnyNames,
}

/// A pattern of secret paths.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: Box<str>,
    elements: Box<[Element]>,
    /// What every match begins with: refuses most paths with one comparison.
    literal: Box<str>,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`PatternFault`] where it is none.
    pub fn parse(text: &str) -> Result<Self, PatternFault> {
        SecretPath::from_store(text)?;
        let mut elements = Vec::new();
        for name in text.split('/') {
            match name {
                "**" => elements.extend([Element::AnyName, Element::AnyNames]),
                "*" => elements.push(Element::AnyName),
                _ if name.contains("**") => return Err(PatternFault::StarsWithinName),
                _ if name.contains('*') => elements.push(Element::Shape(name.into())),
                _ => elements.push(Element::Name(name.into())),
            }
        }
        if elements.len() > ELEMENTS_MAX {
            return Err(PatternFault::Long);
        }
        let literal = text.split('*').next().unwrap_or_default();
        Ok(Self { text: text.into(), elements: elements.into(), literal: literal.into() })
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The whole names at its beginning, before the first that holds a `*`: every match is that path or below it.
    #[must_use]
    pub fn literal_prefix(&self) -> &str {
        if self.literal.len() == self.text.len() {
            return &self.text;
        }
        self.literal.rsplit_once('/').map_or("", |(names, _)| names)
    }

    /// Whether the pattern lets `path` through, whole.
    #[must_use]
    pub fn matches(&self, path: &SecretPath) -> bool {
        path.as_str().starts_with(&*self.literal) && self.matches_names(path.as_str())
    }

    /// Greedy with one place to go back to, the last [`Element::AnyNames`]: enough for patterns of this kind, and
    /// never worse than names × elements.
    fn matches_names(&self, path: &str) -> bool {
        let mut names = path.split('/');
        let mut at = 0;
        let mut back: Option<(usize, std::str::Split<'_, char>)> = None;
        loop {
            if let Some(Element::AnyNames) = self.elements.get(at) {
                at += 1;
                back = Some((at, names.clone()));
                continue;
            }
            match (names.next(), self.elements.get(at)) {
                (None, None) => return true,
                (Some(name), Some(element)) if element.admits(name) => at += 1,
                (None, Some(_)) => return false,
                _ => {
                    let Some((place, rest)) = &mut back else { return false };
                    if rest.next().is_none() {
                        return false;
                    }
                    at = *place;
                    names = rest.clone();
                }
            }
        }
    }

    /// Whether some path below `directory` (`""`: the top) could be let through.
    #[must_use]
    pub fn possible_below(&self, directory: &str) -> bool {
        // As far as both go, the directory must be what every match begins with.
        if directory.bytes().zip(self.literal.bytes()).any(|(one, other)| one != other) {
            return false;
        }
        // Every element admits some name, so a path exists as soon as one element is left over.
        let alive = self.alive_below(directory);
        self.reached(&alive).any(|at| at < self.elements.len())
    }

    /// The places that may come next after the names of `directory`.
    fn alive_below(&self, directory: &str) -> Vec<bool> {
        let mut alive = vec![false; self.elements.len() + 1];
        if let Some(first) = alive.first_mut() {
            *first = true;
        }
        let names = directory.split('/').filter(|_| !directory.is_empty());
        for name in names {
            let mut next = vec![false; alive.len()];
            for at in self.reached(&alive) {
                match self.elements.get(at) {
                    Some(Element::AnyNames) => mark(&mut next, at),
                    Some(element) if element.admits(name) => mark(&mut next, at + 1),
                    _ => {}
                }
            }
            alive = next;
        }
        alive
    }

    /// What is left of the pattern below `directory` (`""`: all of it), as alternatives; each stands for at least one name.
    /// [`Element::AnyNames`] follows an [`Element::AnyName`] in each.
    pub(super) fn rest_below(&self, directory: &str) -> Vec<Vec<Element>> {
        let alive = self.alive_below(directory);
        let rests = self.reached(&alive).filter_map(|at| match self.elements.get(at..)? {
            [] => None,
            rest @ [Element::AnyNames, ..] => Some([&[Element::AnyName], rest].concat()),
            rest => Some(rest.to_vec()),
        });
        rests.collect()
    }

    /// The places that are alive, also those reached by letting [`Element::AnyNames`] stand for none.
    fn reached<'a>(&'a self, alive: &'a [bool]) -> impl Iterator<Item = usize> + 'a {
        let mut carried = false;
        alive.iter().enumerate().filter_map(move |(at, direct)| {
            let here = *direct || carried;
            carried = here && matches!(self.elements.get(at), Some(Element::AnyNames));
            here.then_some(at)
        })
    }
}

fn mark(places: &mut [bool], at: usize) {
    if let Some(place) = places.get_mut(at) {
        *place = true;
    }
}

impl Element {
    fn admits(&self, name: &str) -> bool {
        match self {
            Self::Name(own) => **own == *name,
            Self::Shape(shape) => has_shape(shape, name),
            Self::AnyName | Self::AnyNames => true,
        }
    }
}

/// The names of a path below a directory; none where it is not below that.
pub(super) fn names_below(path: &SecretPath, directory: &str) -> Vec<Element> {
    let rest = path.as_str().strip_prefix(directory).unwrap_or_default();
    rest.split('/').filter(|name| !name.is_empty()).map(|name| Element::Name(name.into())).collect()
}

/// Whether `name` has the shape that `shape` draws with `*` for any number of characters, also none.
#[must_use]
pub(super) fn has_shape(shape: &str, name: &str) -> bool {
    let Some((head, rest)) = shape.split_once('*') else { return shape == name };
    let Some(mut name) = name.strip_prefix(head) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return name.ends_with(part);
        }
        let Some((_, after)) = name.split_once(part) else { return false };
        name = after;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        Pattern::parse(pattern).unwrap().matches(&SecretPath::from_store(path).unwrap())
    }

    /// The meaning of a pattern, written down as plainly as possible.
    fn oracle(pattern: &[&str], path: &[&str]) -> bool {
        fn shape(shape: &[u8], name: &[u8]) -> bool {
            match shape.split_first() {
                None => name.is_empty(),
                Some((b'*', rest)) => (0..=name.len()).any(|at| shape_rest(rest, name, at)),
                Some((byte, rest)) => name.first() == Some(byte) && shape_rest(rest, name, 1),
            }
        }
        fn shape_rest(rest: &[u8], name: &[u8], at: usize) -> bool {
            shape(rest, &name[at..])
        }
        match pattern.split_first() {
            None => path.is_empty(),
            Some((&"**", rest)) => (1..=path.len()).any(|taken| oracle(rest, &path[taken..])),
            Some((first, rest)) => {
                !path.is_empty() && shape(first.as_bytes(), path[0].as_bytes()) && oracle(rest, &path[1..])
            }
        }
    }

    #[test]
    fn the_contract_s_own_examples_hold() {
        assert!(matches("prod/orders/**", "prod/orders/db"));
        assert!(matches("prod/orders/**", "prod/orders/db/replica"));
        assert!(!matches("prod/orders/**", "prod/orders"));
        assert!(!matches("prod/orders/**", "prod/ordersX/db"));
        assert!(matches("prod/orders/*", "prod/orders/db"));
        assert!(!matches("prod/orders/*", "prod/orders/db/replica"));
        assert!(matches("prod/*/db-*", "prod/orders/db-main"));
        assert!(!matches("prod/*/db-*", "prod/orders/xdb-main"));
    }

    #[test]
    fn every_short_pattern_and_path_agrees_with_the_plain_meaning() {
        let parts = ["a", "b", "*", "**", "a*", "*a*b"];
        let names = ["a", "b", "ab", "aab"];
        let patterns = sequences(&parts, 4);
        let paths = sequences(&names, 4);
        for pattern in &patterns {
            let parsed = Pattern::parse(&pattern.join("/")).unwrap();
            for path in &paths {
                let whole = SecretPath::from_store(&path.join("/")).unwrap();
                assert_eq!(parsed.matches(&whole), oracle(pattern, path), "{pattern:?} {path:?}");
            }
        }
    }

    #[test]
    fn what_is_possible_below_a_directory_is_what_some_path_below_it_matches() {
        let patterns = sequences(&["a", "b", "*", "**", "a*"], 3);
        let directories = sequences(&["a", "b"], 2);
        // Four levels below suffice: no pattern here has more than three places.
        let below = sequences(&["a", "b"], 3);
        for pattern in &patterns {
            let parsed = Pattern::parse(&pattern.join("/")).unwrap();
            for directory in &directories {
                let expected =
                    below.iter().any(|rest| oracle(pattern, &[&directory[..], &rest[..]].concat()));
                assert_eq!(
                    parsed.possible_below(&directory.join("/")),
                    expected,
                    "{pattern:?} {directory:?}"
                );
            }
            assert!(parsed.possible_below(""));
        }
    }

    fn sequences<'a>(parts: &[&'a str], longest: usize) -> Vec<Vec<&'a str>> {
        let mut all: Vec<Vec<&str>> = vec![];
        let mut last: Vec<Vec<&str>> = vec![vec![]];
        for _ in 0..longest {
            last = last
                .iter()
                .flat_map(|one| parts.iter().map(move |part| [one.as_slice(), &[*part]].concat()))
                .collect();
            all.extend(last.iter().cloned());
        }
        all
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["", "/a", "a/", "a//b", "a/../b", ".", "a/**b", "a/***", "a\n", "a/\0"] {
            assert!(Pattern::parse(text).is_err(), "{text:?}");
        }
        assert!(Pattern::parse(&["*"; 129].join("/")).is_err());
    }

    #[test]
    fn many_stars_cost_no_more_than_few() {
        let pattern = Pattern::parse(&["**/a"; 40].join("/")).unwrap();
        let path = SecretPath::from_store(&["a"; 500].join("/")).unwrap();
        let begun = std::time::Instant::now();
        assert!(pattern.matches(&path));
        assert!(!pattern.matches(&SecretPath::from_store(&["b"; 500].join("/")).unwrap()));
        assert!(begun.elapsed().as_millis() < 200);
    }
}
