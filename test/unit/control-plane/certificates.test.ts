import { X509Certificate } from "node:crypto";
import https from "node:https";
import type { AddressInfo } from "node:net";
import type { TLSSocket } from "node:tls";
import { afterEach, expect, test } from "vitest";
import { type Certificate, createAuthority, loadAuthority } from "../../../tools/control-plane/certificates.ts";

let server: https.Server | undefined;
afterEach(() => server?.close());

/** Answers with the subject of whoever calls, and only to clients of `authority`. */
async function serve(certificate: Certificate, authorityPem: string): Promise<number> {
  const tls = { cert: certificate.certificatePem, key: certificate.keyPem, ca: authorityPem };
  const started = https.createServer({ ...tls, requestCert: true, rejectUnauthorized: true }, (call, answer) => {
    const { CN, O } = (call.socket as TLSSocket).getPeerCertificate().subject;
    answer.end(JSON.stringify({ CN, O }));
  });
  server = started;
  await new Promise<void>((resolve) => started.listen(0, "127.0.0.1", resolve));
  return (started.address() as AddressInfo).port;
}

function call(port: number, authorityPem: string, client: Certificate): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const options = { port, host: "127.0.0.1", ca: authorityPem, cert: client.certificatePem, key: client.keyPem };
    https
      .get({ ...options, agent: false }, (answer) => {
        let body = "";
        answer.on("data", (chunk) => {
          body += chunk;
        });
        answer.on("end", () => resolve(JSON.parse(body)));
      })
      .on("error", reject);
  });
}

test("server and client trust each other through the authority, and the server sees user and groups", async () => {
  const authority = await createAuthority("test authority");
  const serving = await authority.issue({ commonName: "server", ipAddresses: ["127.0.0.1"], usages: ["server"] });
  const client = await authority.issue({ commonName: "system:x,=y", organizations: ["a", "b"], usages: ["client"] });
  const port = await serve(serving, authority.certificatePem);
  expect(await call(port, authority.certificatePem, client)).toEqual({ CN: "system:x,=y", O: ["a", "b"] });
});

test("a client of another authority is turned away, as is a server certificate used as a client's", async () => {
  const authority = await createAuthority("test authority");
  const stranger = await (await createAuthority("test authority")).issue({ commonName: "admin", usages: ["client"] });
  const serving = await authority.issue({ commonName: "server", ipAddresses: ["127.0.0.1"], usages: ["server"] });
  const port = await serve(serving, authority.certificatePem);
  await expect(call(port, authority.certificatePem, stranger)).rejects.toThrow();
  await expect(call(port, authority.certificatePem, serving)).rejects.toThrow();
});

test("an authority that was read back issues what the first one's clients trust", async () => {
  const authority = await createAuthority("test authority");
  const again = await loadAuthority(authority);
  const { certificatePem } = await again.issue({ commonName: "late", dnsNames: ["localhost"], usages: ["server"] });
  const issuer = new X509Certificate(authority.certificatePem);
  const certificate = new X509Certificate(certificatePem);
  expect(certificate.verify(issuer.publicKey)).toBe(true);
  expect(certificate.checkIssued(issuer)).toBe(true);
  expect(certificate.subjectAltName).toBe("DNS:localhost");
  expect(certificate.ca).toBe(false);
  expect(issuer.ca).toBe(true);
});
