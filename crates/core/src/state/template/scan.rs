//! What a template reads, found in its syntax tree without running it.
//!
//! Reads of other states must be literal (`states['x']`), since they are edges of the graph before anything runs.

use std::collections::BTreeSet;

use minijinja::machinery::ast::{CallArg, Expr, Macro, Stmt};
use minijinja::machinery::{self, Span, Token, Tokenizer};
use minijinja::syntax::SyntaxConfig;

/// Most words and signs within one `{{ … }}` or `{% … %}`: the parser goes one call deeper for some of them, and a
/// stack is not endless. No one writes a hundredth of it.
const MAX_TOKENS: usize = 500;

/// Most `elif` in a template: each goes one call deeper as well.
const MAX_ELIF: usize = 200;

/// Names that templates have without any variable.
const GLOBALS: [&str; 5] = ["range", "dict", "namespace", "caller", "loop"];

/// What a template says, with places as byte offsets into its text.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Names that are not bound within the template itself.
    pub(crate) names: Vec<Name>,
    pub(crate) states: Vec<(String, usize)>,
    /// Outputs that have to be there: `states['x'].y`.
    pub(crate) outputs: Vec<Output>,
    pub(crate) faults: Vec<Fault>,
    /// Filters and tests by their names, which may not exist.
    pub(crate) words: Vec<Word>,
    /// The text is one `{{ … }}` and nothing else: the expression's range.
    pub(crate) lone: Option<std::ops::Range<usize>>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Name {
    pub(crate) name: String,
    /// For `vars.x` and `vars['x']`, the `x`.
    pub(crate) attribute: Option<String>,
    pub(crate) at: usize,
    /// It has a `default()`, or is asked whether it is defined.
    pub(crate) optional: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Output {
    pub(crate) state: String,
    pub(crate) name: String,
    pub(crate) at: usize,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Word {
    pub(crate) name: String,
    /// A filter; otherwise a test.
    pub(crate) is_filter: bool,
    pub(crate) at: usize,
}

/// Something that is wrong whatever the values are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Fault {
    pub(crate) at: usize,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Scan {
    pub(crate) fn reads(&self, name: &str) -> bool {
        self.names.iter().any(|n| n.name == name)
    }

    /// The name is nowhere optional: without a value the template is wrong.
    pub(crate) fn is_required(&self, wanted: &Name) -> bool {
        !self.names.iter().any(|n| n.optional && n.name == wanted.name && n.attribute == wanted.attribute)
    }
}

pub(super) fn template(text: &str, syntax: &SyntaxConfig) -> Scan {
    if let Some(fault) = too_much(text, false, syntax) {
        return Scan { faults: vec![fault], ..Scan::default() };
    }
    match machinery::parse(text, "", syntax.clone()) {
        Ok(Stmt::Template(root)) => {
            let mut scanner = Scanner::new();
            scanner.body(&root.children);
            scanner.scan.lone = match root.children.as_slice() {
                [Stmt::EmitExpr(_)] => lone(text),
                _ => None,
            };
            scanner.scan
        }
        Ok(_) => Scan::default(),
        Err(error) => Scan { faults: vec![fault(text, &error)], ..Scan::default() },
    }
}

pub(super) fn expression(text: &str) -> Scan {
    if let Some(fault) = too_much(text, true, &SyntaxConfig::default()) {
        return Scan { faults: vec![fault], ..Scan::default() };
    }
    match machinery::parse_expr(text) {
        Ok(expr) => {
            let mut scanner = Scanner::new();
            scanner.expr(&expr);
            scanner.scan
        }
        Err(error) => Scan { faults: vec![fault(text, &error)], ..Scan::default() },
    }
}

/// The expression within a text that is one `{{ … }}`; nothing if there is anything around it, be it a space.
fn lone(text: &str) -> Option<std::ops::Range<usize>> {
    let inner = text.strip_prefix("{{")?.strip_suffix("}}")?;
    let start = 2 + usize::from(inner.starts_with(['-', '+']));
    let end = text.len() - 2 - usize::from(inner.ends_with(['-', '+']));
    (start < end).then_some(start..end)
}

fn fault(text: &str, error: &minijinja::Error) -> Fault {
    let line = error.line().unwrap_or(1);
    let at = error
        .range()
        .map(|range| range.start)
        .unwrap_or_else(|| text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum());
    Fault { at, message: super::words(error), hint: None }
}

/// Whether reading the text could go deeper than a stack.
fn too_much(text: &str, expression: bool, syntax: &SyntaxConfig) -> Option<Fault> {
    let fault = |at: usize, message: String| Some(Fault { at, message, hint: None });
    let mut tokenizer = Tokenizer::new(text, "", expression, syntax.clone());
    let (mut inside, mut elifs) = (0, 0);
    // An error here is the parser's to tell.
    while let Ok(Some((token, span))) = tokenizer.next_token() {
        match token {
            Token::TemplateData(_) | Token::VariableStart | Token::BlockStart => inside = 0,
            Token::Ident("elif") => elifs += 1,
            _ => inside += 1,
        }
        let at = span.start_offset as usize;
        if inside > MAX_TOKENS {
            return fault(at, format!("an expression of more than {MAX_TOKENS} words and signs"));
        }
        if elifs > MAX_ELIF {
            return fault(at, format!("more than {MAX_ELIF} elif in one template"));
        }
    }
    None
}

struct Scanner {
    scan: Scan,
    /// Names bound within the template, innermost last; never empty.
    bound: Vec<BTreeSet<String>>,
}

impl Scanner {
    fn new() -> Self {
        Self { scan: Scan::default(), bound: vec![BTreeSet::new()] }
    }

    fn note(&mut self, name: &str) {
        if let Some(names) = self.bound.last_mut() {
            names.insert(name.to_owned());
        }
    }

    fn fault(&mut self, span: Span, message: &str, hint: &str) {
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        self.scan.faults.push(Fault { at: span.start_offset as usize, message: message.into(), hint });
    }

    fn is_bound(&self, name: &str) -> bool {
        GLOBALS.contains(&name) || self.bound.iter().any(|names| names.contains(name))
    }

    fn bind(&mut self, target: &Expr<'_>) {
        match target {
            Expr::Var(var) => {
                if super::RESERVED.contains(&var.id) {
                    self.fault(var.span(), &format!("`{}` cannot be set", var.id), "choose another name");
                } else {
                    self.note(var.id);
                }
            }
            Expr::List(list) => list.items.iter().for_each(|item| self.bind(item)),
            Expr::Tuple(tuple) => tuple.items.iter().for_each(|item| self.bind(item)),
            other => self.expr(other),
        }
    }

    fn within(&mut self, inner: impl FnOnce(&mut Self)) {
        self.bound.push(BTreeSet::new());
        inner(self);
        self.bound.pop();
    }

    fn body(&mut self, statements: &[Stmt<'_>]) {
        statements.iter().for_each(|statement| self.statement(statement));
    }

    fn statement(&mut self, statement: &Stmt<'_>) {
        const ALONE: &str = "a template stands alone here; put the text into it";
        match statement {
            Stmt::Template(template) => self.body(&template.children),
            Stmt::EmitExpr(emit) => self.expr(&emit.expr),
            Stmt::EmitRaw(_) => {}
            Stmt::ForLoop(each) => {
                self.expr(&each.iter);
                self.within(|scanner| {
                    scanner.bind(&each.target);
                    each.filter_expr.iter().for_each(|filter| scanner.expr(filter));
                    scanner.body(&each.body);
                });
                self.within(|scanner| scanner.body(&each.else_body));
            }
            Stmt::IfCond(cond) => {
                self.expr(&cond.expr);
                self.body(&cond.true_body);
                self.body(&cond.false_body);
            }
            Stmt::WithBlock(with) => self.within(|scanner| {
                for (target, value) in &with.assignments {
                    scanner.expr(value);
                    scanner.bind(target);
                }
                scanner.body(&with.body);
            }),
            Stmt::Set(set) => {
                self.expr(&set.expr);
                self.bind(&set.target);
            }
            Stmt::SetBlock(set) => {
                set.filter.iter().for_each(|filter| self.expr(filter));
                self.within(|scanner| scanner.body(&set.body));
                self.bind(&set.target);
            }
            Stmt::AutoEscape(escape) => {
                self.expr(&escape.enabled);
                self.body(&escape.body);
            }
            Stmt::FilterBlock(block) => {
                self.expr(&block.filter);
                self.body(&block.body);
            }
            Stmt::Macro(made) => self.made(made),
            Stmt::CallBlock(block) => {
                self.call(&block.call.expr, &block.call.args);
                self.made(&block.macro_decl);
            }
            Stmt::Do(done) => self.call(&done.call.expr, &done.call.args),
            Stmt::Block(block) => self.fault(block.span(), "`block` is not taken here", ALONE),
            Stmt::Import(import) => self.fault(import.span(), "`import` is not taken here", ALONE),
            Stmt::FromImport(import) => self.fault(import.span(), "`from … import` is not taken here", ALONE),
            Stmt::Extends(extends) => self.fault(extends.span(), "`extends` is not taken here", ALONE),
            Stmt::Include(include) => self.fault(include.span(), "`include` is not taken here", ALONE),
        }
    }

    fn made(&mut self, made: &Macro<'_>) {
        made.defaults.iter().for_each(|default| self.expr(default));
        self.note(made.name);
        self.within(|scanner| {
            made.args.iter().for_each(|arg| scanner.bind(arg));
            scanner.body(&made.body);
        });
    }

    fn call(&mut self, called: &Expr<'_>, args: &[CallArg<'_>]) {
        let before = self.scan.outputs.len();
        self.expr(called);
        // A method is no output.
        self.scan.outputs.truncate(before);
        self.args(args);
    }

    fn args(&mut self, args: &[CallArg<'_>]) {
        for arg in args {
            match arg {
                CallArg::Pos(expr)
                | CallArg::Kwarg(_, expr)
                | CallArg::PosSplat(expr)
                | CallArg::KwargSplat(expr) => {
                    self.expr(expr);
                }
            }
        }
    }

    fn expr(&mut self, expr: &Expr<'_>) {
        match expr {
            Expr::Var(var) => self.name(var.id, None, var.span()),
            Expr::Const(_) => {}
            Expr::Slice(slice) => {
                self.expr(&slice.expr);
                [&slice.start, &slice.stop, &slice.step].into_iter().flatten().for_each(|e| self.expr(e));
            }
            Expr::UnaryOp(op) => self.expr(&op.expr),
            Expr::BinOp(op) => {
                self.expr(&op.left);
                self.expr(&op.right);
            }
            Expr::Compare(compare) => {
                self.expr(&compare.expr);
                compare.ops.iter().for_each(|op| self.expr(&op.expr));
            }
            Expr::IfExpr(cond) => {
                self.expr(&cond.test_expr);
                self.expr(&cond.true_expr);
                cond.false_expr.iter().for_each(|e| self.expr(e));
            }
            Expr::Filter(filter) => {
                self.word(filter.name, true, filter.span());
                if let Some(expr) = &filter.expr {
                    let optional = matches!(filter.name, "default" | "d");
                    self.operand(expr, optional);
                }
                self.args(&filter.args);
            }
            Expr::Test(test) => {
                self.word(test.name, false, test.span());
                self.operand(&test.expr, matches!(test.name, "defined" | "undefined"));
                self.args(&test.args);
            }
            Expr::GetAttr(get) => match &get.expr {
                Expr::Var(var) => self.name(var.id, Some(get.name), var.span()),
                other => {
                    self.output(other, get.name);
                    self.expr(other);
                }
            },
            Expr::GetItem(get) => match (&get.expr, &get.subscript_expr) {
                (Expr::Var(var), Expr::Const(key)) if key.value.as_str().is_some() => {
                    self.name(var.id, key.value.as_str(), var.span());
                }
                (inner, key) => {
                    if let Expr::Const(key) = key
                        && let Some(name) = key.value.as_str()
                    {
                        self.output(inner, name);
                    }
                    self.expr(inner);
                    self.expr(key);
                }
            },
            Expr::Call(call) => self.call(&call.expr, &call.args),
            Expr::List(list) => list.items.iter().for_each(|item| self.expr(item)),
            Expr::Tuple(tuple) => tuple.items.iter().for_each(|item| self.expr(item)),
            Expr::Map(map) => {
                map.keys.iter().for_each(|key| self.expr(key));
                map.values.iter().for_each(|value| self.expr(value));
            }
        }
    }

    /// Something of `state`, which may be `states['x']`.
    fn output(&mut self, state: &Expr<'_>, name: &str) {
        let (of, id) = match state {
            Expr::GetAttr(get) => (&get.expr, Some(get.name)),
            Expr::GetItem(get) => match &get.subscript_expr {
                Expr::Const(key) => (&get.expr, key.value.as_str()),
                _ => return,
            },
            _ => return,
        };
        let (Expr::Var(var), Some(id)) = (of, id) else { return };
        if var.id == "states" {
            let at = var.span().start_offset as usize;
            self.scan.outputs.push(Output { state: id.to_owned(), name: name.to_owned(), at });
        }
    }

    fn word(&mut self, name: &str, is_filter: bool, span: Span) {
        let at = span.start_offset as usize;
        self.scan.words.push(Word { name: name.to_owned(), is_filter, at });
    }

    /// What a filter or a test stands on.
    fn operand(&mut self, expr: &Expr<'_>, optional: bool) {
        let (before, outputs) = (self.scan.names.len(), self.scan.outputs.len());
        self.expr(expr);
        if optional {
            self.scan.outputs.truncate(outputs);
        }
        // `a.b | default(…)`: minijinja wants `a` all the same. For `vars.b` it is the `b` that may be missing.
        let direct = match expr {
            Expr::Var(_) => true,
            Expr::GetAttr(get) => matches!(&get.expr, Expr::Var(var) if super::RESERVED.contains(&var.id)),
            Expr::GetItem(get) => matches!(&get.expr, Expr::Var(var) if super::RESERVED.contains(&var.id)),
            _ => false,
        };
        if optional && direct {
            self.scan.names[before..].iter_mut().for_each(|name| name.optional = true);
        }
    }

    fn name(&mut self, name: &str, attribute: Option<&str>, span: Span) {
        if self.is_bound(name) {
            return;
        }
        let at = span.start_offset as usize;
        if name == "states" {
            match attribute {
                // `states.get('x')` and the like are methods, not states.
                Some("get" | "items" | "keys" | "values") | None => self.fault(
                    span,
                    "which state is read must be plain before anything runs",
                    "write the state's id in quotes: states['id']",
                ),
                Some(id) => self.scan.states.push((id.to_owned(), at)),
            }
        }
        let attribute = attribute.filter(|_| super::RESERVED.contains(&name)).map(str::to_owned);
        self.scan.names.push(Name { name: name.to_owned(), attribute, at, optional: false });
    }
}
