//! The methods of gRPC services, from protocol buffers' language: of a file, only packages, services and methods are read.
//! A method is `POST /PACKAGE.SERVICE/METHOD` (gRPC over HTTP/2, "Requests").

use super::{Unusable, quoted};
use serde_json::{Value, json};

/// A route for each method, in the file's order. Its name is the method's, and the service's too where several services have
/// a method of that name.
pub(super) fn routes(text: &str) -> Result<Vec<Value>, Unusable> {
    let methods = methods(text)?;
    if methods.is_empty() {
        let reason = "there is no service with a method in it; gRPC's are written: service NAME { rpc METHOD (IN) returns (OUT); }";
        return Err(Unusable::new("service", reason));
    }
    let is_alone = |name: &str| methods.iter().filter(|other| other.name == name).count() == 1;
    Ok(methods
        .iter()
        .map(|method| {
            let Method { service, name } = method;
            let path = format!("/{service}/{name}");
            let name = if is_alone(name) {
                name.clone()
            } else {
                format!("{service}/{name}")
            };
            json!({"name": name, "condition": {"method": "POST", "pathRegex": quoted(&path)}})
        })
        .collect())
}

#[derive(Debug, PartialEq, Eq)]
struct Method {
    /// With its package.
    service: String,
    name: String,
}

fn methods(text: &str) -> Result<Vec<Method>, Unusable> {
    let mut tokens = Tokens { text, line: 1 };
    let (mut package, mut found) = (String::new(), Vec::new());
    while let Some(token) = tokens.next()? {
        match token {
            Token::Word("package") => {
                package = tokens.name("the package")?.to_owned();
                tokens.skip_statement()?;
            }
            Token::Word("service") => {
                let name = tokens.name("the service")?;
                let service = match package.as_str() {
                    "" => name.to_owned(),
                    package => format!("{package}.{name}"),
                };
                service_body(&mut tokens, &service, &mut found)?;
            }
            // An empty statement.
            Token::Mark(';') => {}
            Token::Mark('}') => return Err(tokens.ends_nothing()),
            _ => tokens.skip_statement()?,
        }
    }
    Ok(found)
}

fn service_body(
    tokens: &mut Tokens<'_>,
    service: &str,
    found: &mut Vec<Method>,
) -> Result<(), Unusable> {
    let begin = tokens.line;
    if tokens.next()? != Some(Token::Mark('{')) {
        return Err(tokens.wrong(&format!("`{{` is wanted after service {service}")));
    }
    while let Some(token) = tokens.next()? {
        match token {
            Token::Mark('}') => return Ok(()),
            Token::Word("rpc") => {
                let name = tokens.name("the method")?.to_owned();
                found.push(Method {
                    service: service.to_owned(),
                    name,
                });
                tokens.skip_statement()?;
            }
            Token::Mark(';') => {}
            _ => tokens.skip_statement()?,
        }
    }
    Err(Unusable::new(
        format!("line {begin}"),
        format!("service {service} has no end; add `}}`"),
    ))
}

#[derive(Debug, PartialEq, Eq)]
enum Token<'a> {
    /// A name, with dots, or a number.
    Word(&'a str),
    /// A text between quotes.
    Text,
    Mark(char),
}

/// What is left of a file.
struct Tokens<'a> {
    text: &'a str,
    line: usize,
}

impl<'a> Tokens<'a> {
    fn next(&mut self) -> Result<Option<Token<'a>>, Unusable> {
        self.skip_blanks()?;
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
        let Some(first) = self.text.chars().next() else {
            return Ok(None);
        };
        if first == '"' || first == '\'' {
            self.skip_text(first)?;
            return Ok(Some(Token::Text));
        }
        if is_word(first) {
            let end = self.text.find(|c| !is_word(c)).unwrap_or(self.text.len());
            return Ok(Some(Token::Word(self.take(end))));
        }
        self.take(first.len_utf8());
        Ok(Some(Token::Mark(first)))
    }

    /// The next `length` bytes.
    fn take(&mut self, length: usize) -> &'a str {
        let (taken, rest) = self
            .text
            .split_at_checked(length)
            .unwrap_or((self.text, ""));
        self.line += taken.matches('\n').count();
        self.text = rest;
        taken
    }

    fn skip_blanks(&mut self) -> Result<(), Unusable> {
        loop {
            let blanks = self.text.len() - self.text.trim_start().len();
            self.take(blanks);
            if self.text.starts_with("//") {
                let end = self.text.find('\n').unwrap_or(self.text.len());
                self.take(end);
            } else if self.text.starts_with("/*") {
                let inner = self.text.split_at(2).1;
                let end = inner.find("*/");
                let end = end.ok_or_else(|| self.wrong("the comment has no end; add `*/`"))?;
                self.take(2 + end + 2);
            } else {
                return Ok(());
            }
        }
    }

    fn skip_text(&mut self, quote: char) -> Result<(), Unusable> {
        let mut is_escaped = true;
        for (at, c) in self.text.char_indices() {
            if is_escaped {
                // The first one is the quote that begins it.
                is_escaped = false;
            } else if c == '\\' {
                is_escaped = true;
            } else if c == quote {
                self.take(at + 1);
                return Ok(());
            }
        }
        Err(self.wrong(&format!("the text has no end; add `{quote}`")))
    }

    /// Goes behind a statement, whose first word has been taken: behind its `;` or its block.
    fn skip_statement(&mut self) -> Result<(), Unusable> {
        let begin = self.line;
        let mut depth = 0_usize;
        while let Some(token) = self.next()? {
            match token {
                Token::Mark('{') => depth += 1,
                Token::Mark('}') if depth == 0 => return Err(self.ends_nothing()),
                Token::Mark('}') if depth == 1 => return Ok(()),
                Token::Mark('}') => depth -= 1,
                Token::Mark(';') if depth == 0 => return Ok(()),
                _ => {}
            }
        }
        Err(Unusable::new(
            format!("line {begin}"),
            "the statement has no end; add `;` or `}`",
        ))
    }

    fn name(&mut self, what: &str) -> Result<&'a str, Unusable> {
        match self.next()? {
            Some(Token::Word(name)) => Ok(name),
            _ => Err(self.wrong(&format!("the name of {what} is missing"))),
        }
    }

    fn ends_nothing(&self) -> Unusable {
        self.wrong("`}` ends nothing; take it out, or add `;` before it")
    }

    fn wrong(&self, reason: &str) -> Unusable {
        Unusable::new(format!("line {}", self.line), reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHOP: &str = r#"
        syntax = "proto3";
        package shop.v1; // service Not { rpc This (A) returns (B); }
        import "google/protobuf/empty.proto";
        option (things) = { text: "} service Nor { rpc That" };
        /* rpc Neither
           (A) returns (B); */
        message service_of { message rpc { string service = 1; } oneof rpc2 { int32 a = 2; } }
        service Orders {
          option deprecated = true;
          rpc List (stream Order) returns (stream .google.protobuf.Empty);
          rpc Get(Order) returns (Order) {
            option (google.api.http) = { get: "/v1/{name=orders/*}" additional_bindings { get: '\'}' } };
          };
        };
        service Carts { rpc Get (A) returns (B) {} rpc Clear_2 (A) returns (B); }
    "#;

    #[test]
    fn each_method_is_a_route_under_its_packages_and_services_name() {
        let routes = routes(SHOP).unwrap();
        let seen: Vec<_> = routes
            .iter()
            .map(|route| {
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                assert_eq!(route["condition"]["method"], "POST");
                (text(&route["name"]), text(&route["condition"]["pathRegex"]))
            })
            .collect();
        let seen: Vec<_> = seen
            .iter()
            .map(|(name, path)| [name.as_str(), path])
            .collect();
        assert_eq!(
            seen,
            [
                ["List", r"/shop\.v1\.Orders/List"],
                ["shop.v1.Orders/Get", r"/shop\.v1\.Orders/Get"],
                ["shop.v1.Carts/Get", r"/shop\.v1\.Carts/Get"],
                ["Clear_2", r"/shop\.v1\.Carts/Clear_2"],
            ]
        );
        let routes = super::routes("service A { rpc B (C) returns (D); }").unwrap();
        assert_eq!(routes[0]["condition"]["pathRegex"], "/A/B");
    }

    #[test]
    fn what_cannot_be_read_is_said_with_its_line() {
        for (text, place, reason) in [
            ("syntax = \"proto3\";", "service", "no service"),
            (
                "\nservice A {\n rpc B (C) returns (D);",
                "line 2",
                "add `}`",
            ),
            ("service A\n;", "line 2", "`{` is wanted after service A"),
            (
                "service A {\n rpc (C) returns (D); }",
                "line 2",
                "name of the method",
            ),
            ("\n\n/* a", "line 3", "add `*/`"),
            ("a = \"b", "line 1", "add `\"`"),
            ("message A {\n}\n}", "line 3", "ends nothing"),
            ("/*/ service A {}", "line 1", "add `*/`"),
            (
                "service A { rpc B (C) returns (D) }",
                "line 1",
                "ends nothing",
            ),
        ] {
            let error = routes(text).unwrap_err();
            assert_eq!(error.place, place, "{text}: {error}");
            assert!(error.reason.contains(reason), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_it_ends(text in "([a-z{};\"'/*\\\\\n .]|rpc |service |package |é)*") {
            let _ = routes(&text);
        }
    }
}
