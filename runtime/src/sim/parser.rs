//! Tokens of a PTX module to its [`Module`].

use std::collections::HashMap;

use super::error::PtxError;
use super::lexer::{Located, Token, tokens};
use super::literal::{bytes_of, literal};
use super::syntax::{Class, Entry, Literal, Module, Operand, Register, Statement, Variable, VariableSpace};

/// Reads a module.
pub(super) fn parse(text: &str) -> Result<Module<'_>, PtxError> {
    let tokens = tokens(text)?;
    let mut parser = Parser { tokens: &tokens, at: 0, scopes: Vec::new() };
    let mut module = Module::default();
    while parser.peek().is_some() {
        parser.top_level(&mut module)?;
    }
    Ok(module)
}

/// The registers that one pair of braces declares.
#[derive(Default)]
struct Scope<'a> {
    single: HashMap<&'a str, Register>,
    /// `%r<24>`: prefix to the first register and how many there are.
    ranges: HashMap<&'a str, (Register, u32)>,
}

struct Parser<'t, 'a> {
    tokens: &'t [Located<'a>],
    at: usize,
    scopes: Vec<Scope<'a>>,
}

impl<'a> Parser<'_, 'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).map(|t| t.token)
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |t| t.line)
    }

    fn error<T>(&self, problem: impl Into<String>) -> Result<T, PtxError> {
        Err(PtxError::new(self.line(), self.text_between(self.at, self.at + 6), problem))
    }

    /// The tokens of a range as text.
    fn text_between(&self, from: usize, to: usize) -> String {
        let mut out = String::new();
        for located in self.tokens.iter().take(to).skip(from) {
            match located.token {
                Token::Word(word) | Token::Number(word) => {
                    if out.ends_with(|c: char| c.is_alphanumeric() || matches!(c, ',' | '}' | '$')) {
                        out.push(' ');
                    }
                    out.push_str(word);
                }
                Token::Text(text) => out.push_str(&format!("\"{text}\"")),
                Token::Punctuation(c) => {
                    if matches!(c, '[' | '{') && !out.is_empty() {
                        out.push(' ');
                    }
                    out.push(c);
                }
            }
        }
        out
    }

    fn next(&mut self) -> Result<Token<'a>, PtxError> {
        match self.peek() {
            Some(token) => {
                self.at += 1;
                Ok(token)
            }
            None => self.error("the module ends too early"),
        }
    }

    fn accept(&mut self, c: char) -> bool {
        let found = self.peek() == Some(Token::Punctuation(c));
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, c: char) -> Result<(), PtxError> {
        if self.accept(c) { Ok(()) } else { self.error(format!("expected `{c}`")) }
    }

    fn accept_word(&mut self, word: &str) -> bool {
        let found = self.peek() == Some(Token::Word(word));
        self.at += usize::from(found);
        found
    }

    fn word(&mut self) -> Result<&'a str, PtxError> {
        match self.peek() {
            Some(Token::Word(word)) => {
                self.at += 1;
                Ok(word)
            }
            _ => self.error("expected a name"),
        }
    }

    fn number(&mut self) -> Result<u64, PtxError> {
        let negative = self.accept('-');
        let Some(Token::Number(text)) = self.peek() else { return self.error("expected a number") };
        match literal(text) {
            Some(Literal::Integer(value)) => {
                self.at += 1;
                Ok(if negative { value.wrapping_neg() } else { value })
            }
            _ => self.error("expected an integer"),
        }
    }

    /// Leaves out everything up to and with the next `c`.
    fn skip_past(&mut self, c: char) -> Result<(), PtxError> {
        while self.next()? != Token::Punctuation(c) {}
        Ok(())
    }

    fn top_level(&mut self, module: &mut Module<'a>) -> Result<(), PtxError> {
        let Some(Token::Word(word)) = self.peek() else { return self.error("expected a directive") };
        match word {
            ".version" | ".address_size" => self.at += 2,
            ".target" => {
                self.at += 1;
                module.target = self.word()?;
                while self.accept(',') {
                    self.word()?;
                }
            }
            ".visible" | ".extern" | ".weak" | ".common" => self.at += 1,
            ".file" => {
                let line = self.line();
                while self.peek().is_some() && self.line() == line {
                    self.at += 1;
                }
            }
            ".pragma" => self.skip_past(';')?,
            ".entry" => {
                let entry = self.entry()?;
                module.entries.push(entry);
            }
            ".func" | ".alias" => {
                return self.error("functions are not simulated; kernels have to be inlined entirely");
            }
            _ => match space(word) {
                Some(_) => self.variables(&mut module.variables)?,
                None => return self.error("unknown directive"),
            },
        }
        Ok(())
    }

    /// `.shared .align 16 .b8 name[N] = {…}, …;`
    fn variables(&mut self, out: &mut Vec<Variable<'a>>) -> Result<(), PtxError> {
        let space = space(self.word()?);
        let (alignment, element, vector) = self.variable_type()?;
        loop {
            let variable =
                self.variable(space.unwrap_or(VariableSpace::Global), alignment, element * vector)?;
            out.push(variable);
            if !self.accept(',') {
                return self.expect(';');
            }
        }
    }

    /// Alignment in bytes (0 where none is given), bytes of an element, elements of a vector.
    fn variable_type(&mut self) -> Result<(u64, u64, u64), PtxError> {
        let (mut alignment, mut vector) = (0, 1);
        loop {
            match self.word()? {
                ".align" => alignment = self.number()?,
                ".v2" => vector = 2,
                ".v4" => vector = 4,
                ".ptr" | ".global" | ".shared" | ".const" | ".local" => {}
                word => match super::literal::type_bytes(word) {
                    Some(bytes) => return Ok((alignment, bytes, vector)),
                    None => {
                        self.at -= 1;
                        return self.error("unknown type of a variable");
                    }
                },
            }
        }
    }

    fn variable(
        &mut self,
        space: VariableSpace,
        alignment: u64,
        element: u64,
    ) -> Result<Variable<'a>, PtxError> {
        let name = self.word()?;
        let (mut count, mut dynamic) = (1u64, false);
        while self.accept('[') {
            if self.accept(']') {
                dynamic = true;
                count = 0;
            } else {
                count = count.saturating_mul(self.number()?);
                self.expect(']')?;
            }
        }
        let bytes = count.saturating_mul(element);
        if bytes > 1 << 32 {
            return self.error("the variable is too large");
        }
        let initial = if self.accept('=') { Some(self.initializer(element, bytes)?) } else { None };
        let alignment = alignment.max(element).max(1);
        Ok(Variable { name, space, bytes, alignment, initial, dynamic })
    }

    fn initializer(&mut self, element: u64, bytes: u64) -> Result<Vec<u8>, PtxError> {
        let mut out = Vec::new();
        let mut depth = 0;
        loop {
            match self.next()? {
                Token::Punctuation('{') => depth += 1,
                Token::Punctuation('}') => depth -= 1,
                Token::Punctuation(',') => {}
                Token::Punctuation('-') => {
                    let value = self.number()?.wrapping_neg();
                    out.extend_from_slice(&value.to_le_bytes()[..element as usize]);
                }
                Token::Number(text) => match literal(text) {
                    Some(value) => out.extend_from_slice(&bytes_of(value, element as usize)),
                    None => return self.error("not a number"),
                },
                Token::Word(_) | Token::Text(_) | Token::Punctuation(_) => {
                    self.at -= 1;
                    return self.error("initial values are numbers");
                }
            }
            if depth == 0 {
                break;
            }
        }
        out.resize(bytes as usize, 0);
        Ok(out)
    }

    fn entry(&mut self) -> Result<Entry<'a>, PtxError> {
        let line = self.line();
        self.at += 1;
        let mut entry = Entry {
            name: self.word()?,
            line,
            parameters: Vec::new(),
            variables: Vec::new(),
            statements: Vec::new(),
            labels: Vec::new(),
            targets: Vec::new(),
            registers: [0; 2],
            block: None,
            cluster: None,
            most_clustered: None,
            is_explicit: false,
        };
        if self.accept('(') && !self.accept(')') {
            loop {
                let parameter = self.parameter()?;
                entry.parameters.push(parameter);
                if !self.accept(',') {
                    break;
                }
            }
            self.expect(')')?;
        }
        self.performance_directives(&mut entry)?;
        self.expect('{')?;
        self.body(&mut entry)?;
        Ok(entry)
    }

    /// `.param .u64 .ptr .global .align 16 name`
    fn parameter(&mut self) -> Result<Variable<'a>, PtxError> {
        if !self.accept_word(".param") {
            return self.error("expected a parameter");
        }
        let (mut alignment, element, vector) = self.variable_type()?;
        let mut pointer = false;
        while let Some(Token::Word(word)) = self.peek() {
            match word {
                // What a pointer points to is no alignment of the parameter itself.
                ".ptr" => pointer = true,
                ".align" => {
                    self.at += 1;
                    let given = self.number()?;
                    alignment = if pointer { alignment } else { given };
                    continue;
                }
                ".global" | ".shared" | ".const" | ".local" => {}
                _ => break,
            }
            self.at += 1;
        }
        self.variable(VariableSpace::Parameter, alignment, element * vector)
    }

    fn performance_directives(&mut self, entry: &mut Entry<'a>) -> Result<(), PtxError> {
        while let Some(Token::Word(word)) = self.peek() {
            self.at += 1;
            match word {
                ".maxntid" => entry.block = Some((self.triple()?, false)),
                ".reqntid" => entry.block = Some((self.triple()?, true)),
                ".reqnctapercluster" => entry.cluster = Some(self.triple()?),
                ".maxclusterrank" => entry.most_clustered = Some(self.triple()?[0]),
                ".minnctapersm" | ".maxnctapersm" | ".maxnreg" => {
                    self.number()?;
                }
                ".explicitcluster" => entry.is_explicit = true,
                ".pragma" => self.skip_past(';')?,
                _ => {
                    self.at -= 1;
                    return self.error("unknown directive of a kernel");
                }
            }
        }
        Ok(())
    }

    fn triple(&mut self) -> Result<[u32; 3], PtxError> {
        let mut out = [1; 3];
        for (axis, slot) in out.iter_mut().enumerate() {
            if axis > 0 && !self.accept(',') {
                break;
            }
            *slot = u32::try_from(self.number()?).or_else(|_| self.error("too large"))?;
        }
        Ok(out)
    }

    /// Everything between the braces of an entry, and those of nested scopes.
    fn body(&mut self, entry: &mut Entry<'a>) -> Result<(), PtxError> {
        self.scopes.push(Scope::default());
        loop {
            match self.peek() {
                Some(Token::Punctuation('}')) => {
                    self.at += 1;
                    self.scopes.pop();
                    if self.scopes.is_empty() {
                        return Ok(());
                    }
                }
                Some(Token::Punctuation('{')) => {
                    self.at += 1;
                    self.scopes.push(Scope::default());
                }
                Some(Token::Punctuation(';')) => self.at += 1,
                Some(Token::Word(word)) if word.starts_with('.') => self.body_directive(word, entry)?,
                Some(Token::Word(word)) if self.is_label() => {
                    self.at += 2;
                    if self.accept_word(".branchtargets") {
                        let targets = self.names()?;
                        entry.targets.push((word, targets));
                    } else {
                        entry.labels.push((word, entry.statements.len()));
                    }
                }
                Some(_) => {
                    let statement = self.statement()?;
                    entry.statements.push(statement);
                }
                None => return self.error("the kernel has no end"),
            }
        }
    }

    fn is_label(&self) -> bool {
        self.tokens.get(self.at + 1).is_some_and(|t| t.token == Token::Punctuation(':'))
    }

    fn names(&mut self) -> Result<Vec<&'a str>, PtxError> {
        let mut out = vec![self.word()?];
        while self.accept(',') {
            out.push(self.word()?);
        }
        self.expect(';')?;
        Ok(out)
    }

    fn body_directive(&mut self, word: &'a str, entry: &mut Entry<'a>) -> Result<(), PtxError> {
        match word {
            ".reg" => {
                self.at += 1;
                self.registers(entry)
            }
            ".loc" => {
                let line = self.line();
                while self.peek().is_some() && self.line() == line {
                    self.at += 1;
                }
                Ok(())
            }
            ".pragma" => self.skip_past(';'),
            _ if space(word).is_some() => self.variables(&mut entry.variables),
            _ => self.error("unknown directive"),
        }
    }

    /// `.reg .b32 %r<24>, %x;`
    fn registers(&mut self, entry: &mut Entry<'a>) -> Result<(), PtxError> {
        let class = match self.word()? {
            ".pred" => Class::Predicate,
            word => match super::literal::type_bytes(word) {
                Some(1 | 2) => Class::Bits16,
                Some(4) => Class::Bits32,
                Some(8) => Class::Bits64,
                _ => return self.error("registers of this type are not simulated"),
            },
        };
        loop {
            let name = self.word()?;
            let file = &mut entry.registers[file_of(class)];
            let first = Register { class, slot: *file };
            if self.accept('<') {
                let count = self.number()?;
                self.expect('>')?;
                let Ok(count) = u32::try_from(count.min(1 << 20)) else { return self.error("too many") };
                entry.registers[file_of(class)] += count;
                if let Some(scope) = self.scopes.last_mut() {
                    scope.ranges.insert(name, (first, count));
                }
            } else {
                *file += 1;
                if let Some(scope) = self.scopes.last_mut() {
                    scope.single.insert(name, first);
                }
            }
            if !self.accept(',') {
                return self.expect(';');
            }
        }
    }

    fn register(&self, name: &str) -> Option<Register> {
        let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let number = name[prefix.len()..].parse::<u32>().ok();
        for scope in self.scopes.iter().rev() {
            if let Some(register) = scope.single.get(name) {
                return Some(*register);
            }
            if let (Some((first, count)), Some(number)) = (scope.ranges.get(prefix), number)
                && number < *count
            {
                return Some(Register { slot: first.slot + number, ..*first });
            }
        }
        None
    }

    fn statement(&mut self) -> Result<Statement<'a>, PtxError> {
        let (line, start) = (self.line(), self.at);
        let guard = if self.accept('@') {
            let negated = self.accept('!');
            let name = self.word()?;
            match self.register(name) {
                Some(register) if register.class == Class::Predicate => Some((register, negated)),
                _ => return self.error(format!("`{name}` is no predicate")),
            }
        } else {
            None
        };
        let opcode = self.word()?;
        let mut operands = Vec::new();
        if !self.accept(';') {
            loop {
                let operand = self.operand()?;
                operands.push(operand);
                if self.accept(';') {
                    break;
                }
                if !self.accept(',') {
                    return self.error("expected `,` or `;`");
                }
            }
        }
        Ok(Statement { line, guard, opcode, operands, text: self.text_between(start, self.at) })
    }

    fn operand(&mut self) -> Result<Operand<'a>, PtxError> {
        if self.accept('{') {
            let mut parts = Vec::new();
            loop {
                let part = self.operand()?;
                parts.push(part);
                if self.accept('}') {
                    return Ok(Operand::Vector(parts));
                }
                if !self.accept(',') {
                    return self.error("expected `,` or `}`");
                }
            }
        }
        if self.accept('[') {
            return self.address();
        }
        if self.accept('!') {
            let name = self.word()?;
            return match self.register(name) {
                Some(register) => Ok(Operand::Negated(register)),
                None => self.error(format!("`{name}` is no register")),
            };
        }
        let first = self.simple()?;
        if self.accept('|') {
            let second = self.simple()?;
            return Ok(Operand::Pair(Box::new(first), Box::new(second)));
        }
        Ok(first)
    }

    /// `base + offset]`
    fn address(&mut self) -> Result<Operand<'a>, PtxError> {
        let base = self.simple()?;
        let plus = self.accept('+');
        let signed = plus || self.peek() == Some(Token::Punctuation('-'));
        let offset = if signed { self.number()? as i64 } else { 0 };
        self.expect(']')?;
        Ok(Operand::Address { base: Box::new(base), offset })
    }

    fn simple(&mut self) -> Result<Operand<'a>, PtxError> {
        let negative = self.accept('-');
        match self.peek() {
            Some(Token::Number(text)) => {
                let Some(value) = literal(text) else { return self.error("not a number") };
                self.at += 1;
                Ok(Operand::Literal(if negative { negated(value) } else { value }))
            }
            Some(Token::Word("_")) => {
                self.at += 1;
                Ok(Operand::Sink)
            }
            Some(Token::Word(name)) if !negative => {
                self.at += 1;
                match self.register(name) {
                    Some(register) => Ok(Operand::Register(register)),
                    None if name.starts_with('%') => Ok(Operand::Special(name)),
                    None => Ok(Operand::Symbol(name)),
                }
            }
            _ => self.error("expected an operand"),
        }
    }
}

fn negated(value: Literal) -> Literal {
    match value {
        Literal::Integer(v) => Literal::Integer(v.wrapping_neg()),
        Literal::Single(bits) => Literal::Single(bits ^ (1 << 31)),
        Literal::Double(v) => Literal::Double(-v),
    }
}

/// The register file of a class.
pub(super) fn file_of(class: Class) -> usize {
    match class {
        Class::Predicate => 0,
        Class::Bits16 | Class::Bits32 | Class::Bits64 => 1,
    }
}

fn space(word: &str) -> Option<VariableSpace> {
    match word {
        ".global" => Some(VariableSpace::Global),
        ".const" => Some(VariableSpace::Constant),
        ".shared" => Some(VariableSpace::Shared),
        ".local" => Some(VariableSpace::Local),
        _ => None,
    }
}
