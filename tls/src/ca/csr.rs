//! Certificate signing requests, read with suspicion: what comes out is a verified name and a key, nothing else.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::{
    certification_request::X509CertificationRequest,
    cri_attributes::ParsedCriAttribute,
    extensions::{GeneralName, ParsedExtension, X509Extension},
    oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY},
    prelude::FromDer,
    x509::SubjectPublicKeyInfo as ParsedKey,
};

use crate::{Id, ca::IssueError, error::shown};

/// A request for one name and a P-256 key is about 300 bytes.
const MAX_CSR: usize = 16 * 1024;

/// A request whose own signature has been verified.
#[derive(Debug)]
pub(crate) struct Csr {
    key_info: Vec<u8>,
    public_key: Vec<u8>,
    common_names: Vec<String>,
    dns: Vec<String>,
    emails: usize,
    addresses: usize,
    uris: usize,
    other_names: usize,
    /// The first extension asked for that is not a name or harmless.
    refused_extension: Option<String>,
}

impl Csr {
    /// Reads a request, DER (PKCS#10), and checks that it is signed by the key in it.
    pub(crate) fn parse(der: &[u8]) -> Result<Self, IssueError> {
        if der.len() > MAX_CSR {
            return Err(IssueError::Unreadable(format!(
                "it is {} bytes long, more than {MAX_CSR}",
                der.len()
            )));
        }
        let (rest, parsed) = X509CertificationRequest::from_der(der)
            .map_err(|error| IssueError::Unreadable(shown(&error.to_string())))?;
        if !rest.is_empty() {
            return Err(IssueError::Unreadable("bytes after its end".to_owned()));
        }
        let info = &parsed.certification_request_info;
        if !is_p256(&info.subject_pki) {
            return Err(IssueError::KeyType);
        }
        parsed
            .verify_signature()
            .map_err(|_| IssueError::Signature)?;

        let mut csr = Self {
            key_info: info.subject_pki.raw.to_vec(),
            public_key: info.subject_pki.subject_public_key.data.to_vec(),
            common_names: info
                .subject
                .iter_common_name()
                .map(|name| name.as_str().unwrap_or("not text").to_owned())
                .collect(),
            dns: Vec::new(),
            emails: 0,
            addresses: 0,
            uris: 0,
            other_names: 0,
            refused_extension: None,
        };
        for attribute in info.iter_attributes() {
            if let ParsedCriAttribute::ExtensionRequest(request) = attribute.parsed_attribute() {
                for extension in &request.extensions {
                    csr.read(extension);
                }
            }
        }
        Ok(csr)
    }

    fn read(&mut self, extension: &X509Extension<'_>) {
        let harmless = match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    self.name(name);
                }
                true
            }
            // Common tools ask for these. We set our own in any case.
            ParsedExtension::KeyUsage(usage) => !usage.key_cert_sign() && !usage.crl_sign(),
            ParsedExtension::BasicConstraints(constraints) => !constraints.ca,
            ParsedExtension::ExtendedKeyUsage(usage) => {
                usage.other.is_empty() && !usage.any && !usage.ocsp_signing && !usage.code_signing
            }
            ParsedExtension::SubjectKeyIdentifier(_) => true,
            _ => false,
        };
        if !harmless && self.refused_extension.is_none() {
            self.refused_extension = Some(shown(&extension.oid.to_id_string()));
        }
    }

    fn name(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(name) => self.dns.push((*name).to_owned()),
            GeneralName::RFC822Name(_) => self.emails += 1,
            GeneralName::IPAddress(_) => self.addresses += 1,
            GeneralName::URI(_) => self.uris += 1,
            _ => self.other_names += 1,
        }
    }

    /// Checks that the request asks for `identity` and for nothing else.
    pub(crate) fn names_only(&self, identity: &str) -> Result<(), IssueError> {
        let [name] = self.dns.as_slice() else {
            return Err(IssueError::DnsNames);
        };
        if name != identity {
            return Err(IssueError::OtherName {
                csr: shown(name),
                requested: shown(identity),
            });
        }
        let stranger = |name: &&String| !name.is_empty() && *name != identity;
        if let Some(name) = self.common_names.iter().find(stranger) {
            return Err(IssueError::CommonName(shown(name)));
        }
        for (count, kind) in [
            (self.emails, "email addresses"),
            (self.addresses, "IP addresses"),
            (self.uris, "URIs"),
            (self.other_names, "other names"),
        ] {
            if count > 0 {
                return Err(IssueError::Kind(kind));
            }
        }
        if let Some(oid) = &self.refused_extension {
            return Err(IssueError::Extension(oid.clone()));
        }
        match Id::dns(identity) {
            Ok(id) if id.as_str() == identity => Ok(()),
            Ok(_) => Err(IssueError::Identity("it must be lower case".to_owned())),
            Err(error) => Err(IssueError::Identity(error.to_string())),
        }
    }

    /// Whether it has the name as its common name too.
    pub(crate) fn has_common_name(&self) -> bool {
        self.common_names.iter().any(|name| !name.is_empty())
    }

    /// The public key alone, as a point.
    pub(crate) fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// The key in the form that goes into a certificate.
    pub(crate) fn key_info(&self) -> Result<SubjectPublicKeyInfo, IssueError> {
        SubjectPublicKeyInfo::from_der(&self.key_info).map_err(|_| IssueError::KeyType)
    }
}

fn is_p256(key: &ParsedKey<'_>) -> bool {
    key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
        && key
            .algorithm
            .parameters
            .as_ref()
            .and_then(|curve| curve.as_oid().ok())
            .is_some_and(|curve| curve == OID_EC_P256)
}
