// @peculiar/x509 resolves its parts through decorators, which need this polyfill before it.
import "reflect-metadata";
import { createPrivateKey, webcrypto } from "node:crypto";
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  type GeneralNameType,
  type JsonName,
  KeyUsageFlags,
  KeyUsagesExtension,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from "@peculiar/x509";

/** Elliptic keys: issuing one takes a millisecond, where an RSA key takes a tenth of a second. */
const keyAlgorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
const dayMs = 24 * 60 * 60 * 1000;

/** What a certificate is for. `commonName` and `organizations` are Kubernetes' user and groups. */
export type CertificateRequest = {
  readonly commonName: string;
  readonly organizations?: readonly string[];
  readonly dnsNames?: readonly string[];
  readonly ipAddresses?: readonly string[];
  readonly usages: readonly ("client" | "server")[];
};

/** Certificate and private key (PKCS #8), both PEM. */
export type Certificate = { readonly certificatePem: string; readonly keyPem: string };

/** A certificate authority that lives as long as its control plane. */
export type CertificateAuthority = Certificate & {
  /** Issues a certificate for a new key. It is valid for a year, or as long as the authority. */
  readonly issue: (request: CertificateRequest) => Promise<Certificate>;
};

/** Creates a self-signed authority, valid for ten years. */
export async function createAuthority(commonName: string): Promise<CertificateAuthority> {
  const keys = await generateKeys();
  const certificate = await X509CertificateGenerator.createSelfSigned({
    name: [{ CN: [commonName] }],
    keys,
    signingAlgorithm: keyAlgorithm,
    ...validFor(3650),
    extensions: [
      new BasicConstraintsExtension(true, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign | KeyUsageFlags.digitalSignature, true),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return authority(certificate, keys.privateKey, await exportKey(keys.privateKey));
}

/** Takes an authority up again from the two PEM texts of `createAuthority`. */
export async function loadAuthority({ certificatePem, keyPem }: Certificate): Promise<CertificateAuthority> {
  const pkcs8 = createPrivateKey(keyPem).export({ format: "der", type: "pkcs8" });
  const key = await webcrypto.subtle.importKey("pkcs8", pkcs8, keyAlgorithm, true, ["sign"]);
  return authority(new X509Certificate(certificatePem), key, keyPem);
}

function authority(issuer: X509Certificate, issuerKey: webcrypto.CryptoKey, keyPem: string): CertificateAuthority {
  return {
    certificatePem: `${issuer.toString("pem")}\n`,
    keyPem,
    issue: async (request) => {
      const keys = await generateKeys();
      const certificate = await X509CertificateGenerator.create({
        subject: subjectOf(request),
        issuer: issuer.subjectName.toJSON(),
        publicKey: keys.publicKey,
        signingKey: issuerKey,
        signingAlgorithm: keyAlgorithm,
        ...validFor(365),
        extensions: [
          new BasicConstraintsExtension(false, undefined, true),
          new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
          new ExtendedKeyUsageExtension(request.usages.map((usage) => extendedUsages[usage])),
          await AuthorityKeyIdentifierExtension.create(issuer),
          ...alternativeNames(request),
        ],
      });
      return { certificatePem: `${certificate.toString("pem")}\n`, keyPem: await exportKey(keys.privateKey) };
    },
  };
}

const extendedUsages = { client: ExtendedKeyUsage.clientAuth, server: ExtendedKeyUsage.serverAuth } as const;

function subjectOf({ commonName, organizations = [] }: CertificateRequest): JsonName {
  return [...organizations.map((organization) => ({ O: [organization] })), { CN: [commonName] }];
}

function alternativeNames({ dnsNames = [], ipAddresses = [] }: CertificateRequest): SubjectAlternativeNameExtension[] {
  const names: { type: GeneralNameType; value: string }[] = [
    ...dnsNames.map((value) => ({ type: "dns" as const, value })),
    ...ipAddresses.map((value) => ({ type: "ip" as const, value })),
  ];
  return names.length === 0 ? [] : [new SubjectAlternativeNameExtension(names)];
}

/** An hour in the past, so that a peer whose clock is a little behind accepts a new certificate. */
function validFor(days: number): { notBefore: Date; notAfter: Date } {
  const now = Date.now();
  return { notBefore: new Date(now - 60 * 60 * 1000), notAfter: new Date(now + days * dayMs) };
}

async function generateKeys(): Promise<webcrypto.CryptoKeyPair> {
  return webcrypto.subtle.generateKey(keyAlgorithm, true, ["sign", "verify"]);
}

async function exportKey(key: webcrypto.CryptoKey): Promise<string> {
  const pkcs8 = Buffer.from(await webcrypto.subtle.exportKey("pkcs8", key));
  return createPrivateKey({ key: pkcs8, format: "der", type: "pkcs8" })
    .export({ format: "pem", type: "pkcs8" })
    .toString();
}
