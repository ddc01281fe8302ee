//! Users and groups as the machine's own tables have them, the rules for their names, and the tools that change them.

use std::collections::BTreeSet;
use std::path::Path;

use crate::failure::Failure;
use crate::host::{Command, Host, View};

/// As long as the tools of every common distribution allow.
const MAX_NAME: usize = 32;

/// A name that the tools take as one, and that nothing takes for an option, a number, or two fields.
pub fn check_name(what: &str, name: &str) -> Result<(), String> {
    check_words(name).map_err(|why| format!("{name:?} cannot be the name of a {what}: {why}"))
}

/// The same, in words without the name.
pub fn check_words(name: &str) -> Result<(), String> {
    let refused = |why: &str| Err(why.to_owned());
    if name.is_empty() || name.len() > MAX_NAME {
        return refused("it has 1 to 32 bytes");
    }
    if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        return refused("it begins with a letter or `_`");
    }
    let (body, end) = name.split_at(name.len() - 1);
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if !body.chars().all(plain) || !end.chars().all(|c| plain(c) || c == '$') {
        return refused("it holds letters, digits, `_`, `-` and `.`, and may end with `$`");
    }
    Ok(())
}

/// What a field of the tables can hold.
pub fn check_field(name: &str, text: &str) -> Result<(), String> {
    match text.contains([':', '\n', '\r', '\0']) {
        true => Err(format!("`{name}` cannot hold a colon, a line end or a zero byte")),
        false => Ok(()),
    }
}

/// A line of `/etc/passwd`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserEntry {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub comment: String,
    pub home: String,
    pub shell: String,
}

/// A line of `/etc/group`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupEntry {
    pub name: String,
    pub gid: u32,
    pub members: BTreeSet<String>,
}

/// The local user of this name. Those of a directory service are not ours to manage.
pub fn user(view: &View, name: &str) -> Result<Option<UserEntry>, Failure> {
    Ok(lines(view, "/etc/passwd")?.iter().filter_map(|line| parse_user(line)).find(|user| user.name == name))
}

pub fn groups(view: &View) -> Result<Vec<GroupEntry>, Failure> {
    Ok(lines(view, "/etc/group")?.iter().filter_map(|line| parse_group(line)).collect())
}

/// Whether `userdel` takes away the group of the user's name as well: it does so where `USERGROUPS_ENAB` is set and nobody else
/// is in it.
pub fn group_goes_along(view: &View, user: &UserEntry, groups: &[GroupEntry]) -> Result<bool, Failure> {
    let own = groups.iter().find(|group| group.name == user.name && group.gid == user.gid);
    if own.is_none_or(|own| own.members.iter().any(|member| *member != user.name)) {
        return Ok(false);
    }
    let shares = |line: &String| {
        parse_user(line).is_some_and(|other| other.gid == user.gid && other.name != user.name)
    };
    if lines(view, "/etc/passwd")?.iter().any(shares) {
        return Ok(false);
    }
    let words = |line: &String| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let settings = lines(view, "/etc/login.defs")?;
    Ok(settings.iter().map(words).any(|words| words == ["USERGROUPS_ENAB", "yes"]))
}

/// The user's password hash. Nothing where there is no entry for it.
pub fn password(view: &View, name: &str) -> Result<Option<String>, Failure> {
    let lines = lines(view, "/etc/shadow")?;
    let mut entries = lines.iter().map(|line| line.split(':'));
    Ok(entries
        .find_map(|mut fields| (fields.next() == Some(name)).then(|| fields.next().map(str::to_owned))?))
}

/// Has a tool of the shadow suite change the tables: it takes the lock that all others take.
pub fn change(host: &Host, command: &Command) -> Result<(), Failure> {
    // Alpine's own tools are others, and can change nothing that is there.
    let ran = host.run(command).map_err(|failure| match command.program.contains('/') {
        true => failure,
        false => failure.hint("the package `shadow` or `passwd` has this tool"),
    })?;
    ran.or_failure(command).map(drop)
}

fn lines(view: &View, path: &str) -> Result<Vec<String>, Failure> {
    let bytes = view.read(Path::new(path))?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
}

fn parse_user(line: &str) -> Option<UserEntry> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, comment, home, shell] = fields[..] else { return None };
    Some(UserEntry {
        name: name.into(),
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        comment: comment.into(),
        home: home.into(),
        shell: shell.into(),
    })
}

fn parse_group(line: &str) -> Option<GroupEntry> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, gid, members] = fields[..] else { return None };
    let members = members.split(',').filter(|member| !member.is_empty()).map(str::to_owned).collect();
    Some(GroupEntry { name: name.into(), gid: gid.parse().ok()?, members })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_tools_take() {
        for good in ["app", "_apt", "www-data", "a.b", "machine$", "Www2"] {
            assert_eq!(check_name("user", good), Ok(()), "{good}");
        }
        let long = "a".repeat(33);
        for bad in ["", "-r", "0", "12", "a:b", "a b", "a,b", "a/b", "a$b", "a\n", "ä", "..", "$", &long] {
            assert!(check_name("user", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lines_that_are_none_are_passed_over() {
        assert_eq!(parse_user("+::::::"), None);
        assert_eq!(parse_user("a:x:1"), None);
        let user = parse_user("app:x:7:8:The App,,,:/srv/app:/bin/sh").unwrap();
        assert_eq!((user.uid, user.gid, user.comment.as_str()), (7, 8, "The App,,,"));
        assert_eq!(parse_group("www:x:33:a,b").unwrap().members.len(), 2);
        assert_eq!(parse_group("www:x:33:").unwrap().members.len(), 0);
    }
}
