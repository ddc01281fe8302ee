//! The grammar of target expressions, by recursive descent of bounded depth.
//!
//! ```text
//! or        = and { "or" and }
//! and       = not { "and" not }
//! not       = ( "not" | "!" ) not | "(" or ")" | key comparison list | list
//! list      = word { "," word }
//! ```
//!
//! Whether a word is a keyword depends on its place: `role=all` is the value "all".

use super::{Comparison, Condition, Expr, FACTS, MAX_DEPTH, MAX_TEXT, Side, TargetError};
use super::{is_ordered, is_quantity, quantity};

/// Words that are no names. [`crate::id::NodeName`] refuses them too.
pub(super) const KEYWORDS: [&str; 4] = ["and", "or", "not", "all"];

/// Whether a character cannot stand in a word without quotes.
pub(super) fn ends_word(c: char) -> bool {
    c.is_whitespace() || matches!(c, '(' | ')' | ',' | '!' | '=' | '<' | '>' | '"' | '\'')
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    Open,
    Close,
    Comma,
    Bang,
    Comparison(Comparison),
    Word { text: String, quoted: bool },
}

pub(super) fn parse(text: &str) -> Result<Expr, TargetError> {
    if text.len() > MAX_TEXT {
        let message = format!("the expression has {} bytes; at most {MAX_TEXT} are taken", text.len());
        return Err(error(text, 0, message, Some("give the nodes a label and use that".into())));
    }
    let mut parser = Parser { text, tokens: tokens(text)?, next: 0, depth: 0 };
    let expr = parser.or()?;
    match parser.peek() {
        None => Ok(expr),
        Some(Token::Close) => Err(parser.wrong("this `)` closes nothing", None)),
        Some(_) => Err(parser.unjoined()),
    }
}

fn error(text: &str, offset: usize, message: impl Into<String>, hint: Option<String>) -> TargetError {
    TargetError { message: message.into(), offset, column: text[..offset].chars().count() + 1, hint }
}

/// The tokens, each with the offset where it begins.
fn tokens(text: &str) -> Result<Vec<(usize, Token)>, TargetError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let (token, length) = match c {
            c if c.is_whitespace() => {
                at += c.len_utf8();
                continue;
            }
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            ',' => (Token::Comma, 1),
            '"' | '\'' => quoted(text, at, c)?,
            '=' | '<' | '>' | '!' => sign(&text[at..]),
            _ => {
                let word = bare_word(&text[at..]);
                let token = Token::Word { text: word.to_owned(), quoted: false };
                (token, word.len())
            }
        };
        tokens.push((at, token));
        at += length;
    }
    Ok(tokens)
}

fn sign(rest: &str) -> (Token, usize) {
    for (sign, comparison) in [
        ("==", Comparison::Is),
        ("!=", Comparison::IsNot),
        ("<=", Comparison::AtMost),
        (">=", Comparison::AtLeast),
        ("=", Comparison::Is),
        ("<", Comparison::Less),
        (">", Comparison::More),
    ] {
        if rest.starts_with(sign) {
            return (Token::Comparison(comparison), sign.len());
        }
    }
    (Token::Bang, 1)
}

fn bare_word(rest: &str) -> &str {
    let mut in_class = false;
    let end = rest.find(|c| {
        in_class = c == '[' || (in_class && c != ']');
        // `web-[!0-9]`: within a class the sign is part of the glob.
        ends_word(c) && !(in_class && c == '!')
    });
    &rest[..end.unwrap_or(rest.len())]
}

fn quoted(text: &str, at: usize, quote: char) -> Result<(Token, usize), TargetError> {
    let mut word = String::new();
    let mut chars = text[at + 1..].char_indices();
    while let Some((offset, c)) = chars.next() {
        match c {
            c if c == quote => {
                let token = Token::Word { text: word, quoted: true };
                return Ok((token, offset + 2));
            }
            '\\' => word.extend(chars.next().map(|(_, c)| c)),
            c => word.push(c),
        }
    }
    Err(error(text, at, format!("this {quote} is never closed"), None))
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<(usize, Token)>,
    next: usize,
    depth: usize,
}

impl Parser<'_> {
    fn or(&mut self) -> Result<Expr, TargetError> {
        let mut parts = vec![self.and()?];
        while self.take_keyword("or") {
            parts.push(self.and()?);
        }
        Ok(one_or(parts, Expr::Or))
    }

    fn and(&mut self) -> Result<Expr, TargetError> {
        let mut parts = vec![self.not()?];
        while self.take_keyword("and") {
            parts.push(self.not()?);
        }
        Ok(one_or(parts, Expr::And))
    }

    fn not(&mut self) -> Result<Expr, TargetError> {
        if self.take_keyword("not") || self.take(&Token::Bang) {
            self.deeper()?;
            let inner = self.not()?;
            self.depth -= 1;
            return Ok(Expr::Not(Box::new(inner)));
        }
        let opened = self.offset();
        if self.take(&Token::Open) {
            self.deeper()?;
            let inner = self.or()?;
            self.depth -= 1;
            return match self.peek() {
                Some(Token::Close) => {
                    self.next += 1;
                    Ok(inner)
                }
                None => Err(error(self.text, opened, "this `(` is never closed", None)),
                Some(_) => Err(self.unjoined()),
            };
        }
        self.choice()
    }

    /// A condition or a list of names.
    fn choice(&mut self) -> Result<Expr, TargetError> {
        let start = self.offset();
        let (word, quoted) = match self.peek() {
            Some(Token::Word { text, quoted })
                if *quoted || !matches!(text.as_str(), "and" | "or" | "not") =>
            {
                (text.clone(), *quoted)
            }
            _ => return Err(self.expected("a node's name, a condition such as role=web, or `(`")),
        };
        self.next += 1;
        if let Some(Token::Comparison(comparison)) = self.peek() {
            let comparison = *comparison;
            let sign = self.offset();
            self.next += 1;
            return self.condition(start, &word, comparison, sign);
        }
        let mut names = vec![self.name(start, word, quoted)?];
        while self.take(&Token::Comma) {
            let (offset, word, quoted) = self.word("another node's name")?;
            names.push(self.name(offset, word, quoted)?);
        }
        self.end_of_list("a name")?;
        Ok(Expr::Names(names))
    }

    fn condition(
        &mut self,
        start: usize,
        key: &str,
        comparison: Comparison,
        sign: usize,
    ) -> Result<Expr, TargetError> {
        let (side, key) = match (key.strip_prefix("fact."), key.strip_prefix("label.")) {
            (Some(fact), _) => (Side::Fact, fact),
            (_, Some(label)) => (Side::Label, label),
            _ => (Side::Either, key),
        };
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
        if key.is_empty() || !key.chars().all(valid) {
            let message = format!("{key:?} is neither a label nor a fact: those are of a-z A-Z 0-9 . _ - /");
            return Err(error(self.text, start, message, foreign(key)));
        }
        if side == Side::Fact && !FACTS.contains(&key) {
            let hint = format!("the facts are {}", FACTS.join(", "));
            return Err(error(self.text, start, format!("there is no fact {key:?}"), Some(hint)));
        }
        let is_order = !matches!(comparison, Comparison::Is | Comparison::IsNot);
        if is_order && side != Side::Label && FACTS.contains(&key) && !is_ordered(key) {
            let hint = format!("compare it with = or !=; for a label of that name write label.{key}");
            let message = format!("the fact {key} has no order");
            return Err(error(self.text, sign, message, Some(hint)));
        }
        let mut values = Vec::new();
        loop {
            let (offset, value, _) = self.word("a value")?;
            if is_order && side != Side::Label && is_quantity(key) && quantity(&value).is_none() {
                let message = format!("{value:?} is not a number");
                let hint = Some("write it like 4, 512M or 8G".into());
                return Err(error(self.text, offset, message, hint));
            }
            values.push(value);
            let comma = self.offset();
            if !self.take(&Token::Comma) {
                break;
            }
            if is_order {
                return Err(error(self.text, comma, "an order compares with one value only", None));
            }
        }
        self.end_of_list("a value")?;
        Ok(Expr::Condition(Condition { side, key: key.to_owned(), comparison, values }))
    }

    fn name(&self, offset: usize, word: String, quoted: bool) -> Result<String, TargetError> {
        if !quoted {
            match word.as_str() {
                "all" => return Ok("*".into()),
                "and" | "or" | "not" => {
                    let message = format!("`{word}` is no node's name");
                    return Err(error(self.text, offset, message, None));
                }
                _ => {}
            }
        }
        let valid = |c: char| {
            c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '*' | '?' | '[' | ']' | '!' | '^')
        };
        if word.is_empty() || !word.chars().all(valid) {
            let message = format!("{word:?} is neither a node's name nor a glob of one");
            return Err(error(self.text, offset, message, foreign(&word)));
        }
        // As a glob it would stand for itself, and no node is called that.
        if word.rfind('[') > word.rfind(']') {
            return Err(error(self.text, offset, format!("the `[` in {word:?} is never closed"), None));
        }
        Ok(word)
    }

    /// A comparison after a list's second word means that the comma was taken for an `or`.
    fn end_of_list(&self, what: &str) -> Result<(), TargetError> {
        match self.peek() {
            Some(Token::Comparison(_)) => Err(self.wrong(
                "a comparison does not fit here",
                Some(format!(
                    "a comma goes before {what} more of the same; join conditions with `and` or `or`"
                )),
            )),
            _ => Ok(()),
        }
    }

    fn word(&mut self, what: &str) -> Result<(usize, String, bool), TargetError> {
        let offset = self.offset();
        match self.peek() {
            Some(Token::Word { text, quoted }) => {
                let found = (offset, text.clone(), *quoted);
                self.next += 1;
                Ok(found)
            }
            _ => Err(self.expected(what)),
        }
    }

    fn deeper(&mut self) -> Result<(), TargetError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.wrong(&format!("nested deeper than {MAX_DEPTH} levels"), None));
        }
        Ok(())
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|(_, token)| token)
    }

    fn offset(&self) -> usize {
        self.tokens.get(self.next).map_or(self.text.len(), |(at, _)| *at)
    }

    fn take(&mut self, token: &Token) -> bool {
        let found = self.peek() == Some(token);
        self.next += usize::from(found);
        found
    }

    fn take_keyword(&mut self, keyword: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word { text, quoted: false }) if text == keyword);
        self.next += usize::from(found);
        found
    }

    fn wrong(&self, message: &str, hint: Option<String>) -> TargetError {
        error(self.text, self.offset(), message, hint)
    }

    fn expected(&self, what: &str) -> TargetError {
        let found = match self.tokens.get(self.next) {
            None if self.tokens.is_empty() => {
                let hint = Some("`all` means every node".into());
                return self.wrong("the expression is empty", hint);
            }
            None => "the end".to_owned(),
            Some((at, _)) => {
                let end = self.tokens.get(self.next + 1).map_or(self.text.len(), |(at, _)| *at);
                format!("`{}`", self.text[*at..end].trim_end())
            }
        };
        self.wrong(&format!("expected {what}, found {found}"), None)
    }

    /// Two expressions side by side.
    fn unjoined(&self) -> TargetError {
        let hint = match self.peek() {
            Some(Token::Word { text, .. }) => match text.as_str() {
                "AND" | "OR" | "NOT" => format!("write `{}` in lower case", text.to_lowercase()),
                "&&" | "&" => "write `and`".into(),
                "||" | "|" => "write `or`".into(),
                text => foreign(text).unwrap_or_else(|| "join two expressions with `and` or `or`".into()),
            },
            _ => "join two expressions with `and` or `or`".into(),
        };
        self.wrong("expected `and`, `or` or the end", Some(hint))
    }
}

fn one_or(mut parts: Vec<Expr>, join: impl Fn(Vec<Expr>) -> Expr) -> Expr {
    if parts.len() == 1 { parts.remove(0) } else { join(parts) }
}

/// What someone who comes from Salt or Ansible may have meant.
fn foreign(word: &str) -> Option<String> {
    if let Some((kind, rest)) = word.split_once('@') {
        return match kind {
            "G" | "I" => Some(format!("write {}", rest.replacen(':', "=", 1))),
            "L" => Some(format!("write the names with commas: {rest}")),
            "E" | "P" | "J" => Some("write a glob instead of a regular expression".into()),
            _ => None,
        };
    }
    if word.contains(":&") || word.contains(":!") {
        return Some("write `and` for :& and `and not` for :!".into());
    }
    if word.contains(['&', '|']) {
        return Some("write `and` and `or`".into());
    }
    let (key, value) = word.split_once(':')?;
    Some(format!("write {key}={value} for a label, or {key},{value} for two names"))
}
