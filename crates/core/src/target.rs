//! Placeholder of target expressions.
pub fn glob_matches(pattern: &str, text: &str) -> bool {
    pattern == "*" || pattern == text || pattern.strip_suffix('*').is_some_and(|p| text.starts_with(p))
}
