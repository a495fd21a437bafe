import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { stringify } from "yaml";
import { loadConnection } from "../../../src/kube/connection.ts";

const pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
const pemData = Buffer.from(pem).toString("base64");
let folder = "";

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "kllama-connection-"));
  vi.stubEnv("KUBECONFIG", "");
  vi.stubEnv("KUBERNETES_SERVICE_HOST", "");
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(folder, { recursive: true });
});

interface Parts {
  cluster?: object;
  user?: object;
  "current-context"?: string;
}

async function kubeconfig(parts: Parts = {}): Promise<string> {
  const path = join(folder, "config");
  const document = {
    apiVersion: "v1",
    kind: "Config",
    clusters: [
      { name: "other", cluster: { server: "https://other" } },
      { name: "c", cluster: { server: "https://h:6443", "certificate-authority-data": pemData, ...parts.cluster } },
    ],
    users: [{ name: "u", user: parts.user ?? { token: "secret" } }],
    contexts: [
      { name: "x", context: { cluster: "c", user: "u" } },
      { name: "half", context: { cluster: "missing", user: "u" } },
    ],
    "current-context": parts["current-context"] ?? "x",
  };
  await writeFile(path, stringify(document));
  return path;
}

describe("kubeconfig", () => {
  it("reads server, authority, server name and token", async () => {
    const connection = await loadConnection({
      kubeconfigPath: await kubeconfig({ cluster: { "tls-server-name": "kube" } }),
    });
    expect(connection).toMatchObject({ server: "https://h:6443", caPem: pem, serverName: "kube" });
    expect(await connection.token?.()).toBe("secret");
  });

  it("is found through KUBECONFIG", async () => {
    vi.stubEnv("KUBECONFIG", await kubeconfig());
    expect((await loadConnection({})).server).toBe("https://h:6443");
  });

  it("reads certificates from files beside it", async () => {
    await writeFile(join(folder, "ca.pem"), pem);
    await writeFile(join(folder, "key.pem"), "key");
    const cluster = { "certificate-authority-data": undefined, "certificate-authority": "ca.pem" };
    const user = { "client-certificate-data": pemData, "client-key": "key.pem" };
    const connection = await loadConnection({ kubeconfigPath: await kubeconfig({ cluster, user }) });
    expect(connection).toEqual({
      server: "https://h:6443",
      caPem: pem,
      clientCertificatePem: pem,
      clientKeyPem: "key",
    });
  });

  it("reads tokenFile beside it", async () => {
    await writeFile(join(folder, "token"), "from-file\n");
    const connection = await loadConnection({ kubeconfigPath: await kubeconfig({ user: { tokenFile: "token" } }) });
    expect(await connection.token?.()).toBe("from-file");
  });

  it("asks a credential plugin", async () => {
    const credential = {
      apiVersion: "client.authentication.k8s.io/v1",
      kind: "ExecCredential",
      status: { token: "from-plugin" },
    };
    const exec = { apiVersion: credential.apiVersion, command: "echo", args: [JSON.stringify(credential)] };
    const connection = await loadConnection({ kubeconfigPath: await kubeconfig({ user: { exec } }) });
    expect(await connection.token?.()).toBe("from-plugin");
  });

  it.each<[string, Parts, string | undefined, RegExp]>([
    ["an unknown context", {}, "y", /context y does not exist; contexts: x, half/],
    ["a context without its cluster", {}, "half", /context half names cluster missing; clusters: other, c/],
    ["no current context", { "current-context": "" }, undefined, /current-context is missing/],
    ["a server that is no URL", { cluster: { server: "h:x:y" } }, undefined, /cluster c: server "h:x:y" is not a URL/],
    ["a missing file", { user: { tokenFile: "none" } }, undefined, /cannot read .*none \(the bearer token\)/],
    [
      "broken base64",
      { cluster: { "certificate-authority-data": "!!" } },
      undefined,
      /certificate-authority-data is not base64/,
    ],
    ["half a key pair", { user: { "client-certificate-data": pemData } }, undefined, /user u has only one of/],
    [
      "no TLS check",
      { cluster: { "insecure-skip-tls-verify": true } },
      undefined,
      /insecure-skip-tls-verify is not supported; give/,
    ],
    ["a proxy", { cluster: { "proxy-url": "http://p" } }, undefined, /proxy-url is not supported/],
    ["impersonation", { user: { as: "root" } }, undefined, /as \(impersonation\) is not supported/],
    ["a password", { user: { username: "a", password: "b" } }, undefined, /username and password is not supported/],
    [
      "an auth provider",
      { user: { "auth-provider": { name: "gcp" } } },
      undefined,
      /auth-provider is not supported; .*exec/,
    ],
    ["a failing plugin", { user: { exec: { command: "false" } } }, undefined, /credential plugin "false" failed/],
    [
      "a missing plugin",
      { user: { exec: { command: "/nowhere/no-such-plugin" } } },
      undefined,
      /no-such-plugin" failed: .*ENOENT/,
    ],
  ])("refuses %s, naming file, field and remedy", async (_what, parts, context, message) => {
    const kubeconfigPath = await kubeconfig(parts);
    const error = await loadConnection({ kubeconfigPath, ...(context === undefined ? {} : { context }) }).catch(
      (thrown: unknown) => thrown,
    );
    expect((error as Error).message).toMatch(message);
    expect((error as Error).message).toContain(folder);
  });

  it.each([
    ["", /not a kubeconfig/],
    ["a: [", /not YAML/],
    ["- 1", /not a kubeconfig/],
    ["clusters: [{}]\nusers: []\ncontexts: []", /clusters cannot be read: clusters\[0\].name is missing/],
    ["current-context: x\nclusters: 5", /context x does not exist; contexts: none/],
  ])("refuses the file %j", async (text, message) => {
    const path = join(folder, "broken");
    await writeFile(path, text);
    await expect(loadConnection({ kubeconfigPath: path })).rejects.toThrow(message);
  });

  it("refuses a list of files in KUBECONFIG", async () => {
    vi.stubEnv("KUBECONFIG", "/a:/b");
    await expect(loadConnection({})).rejects.toThrow(/several files/);
  });
});

describe("in a pod", () => {
  it("uses the service account, and reads a rotated token after a minute", async () => {
    vi.stubEnv("KUBERNETES_SERVICE_HOST", "fd00::1");
    vi.stubEnv("KUBERNETES_SERVICE_PORT", "443");
    await writeFile(join(folder, "ca.crt"), pem);
    await writeFile(join(folder, "token"), "one\n");
    const now = vi.spyOn(performance, "now").mockReturnValue(1_000);
    const connection = await loadConnection({ serviceAccountPath: folder });
    expect(connection).toMatchObject({ server: "https://[fd00::1]:443", caPem: pem });
    await writeFile(join(folder, "token"), "two\n");
    expect(await connection.token?.()).toBe("one");
    now.mockReturnValue(61_001);
    expect(await connection.token?.()).toBe("two");
    now.mockRestore();
  });

  it("names the file that is missing", async () => {
    vi.stubEnv("KUBERNETES_SERVICE_HOST", "10.0.0.1");
    await expect(loadConnection({ serviceAccountPath: folder })).rejects.toThrow(join(folder, "token"));
  });

  it("prefers a kubeconfig that was named", async () => {
    vi.stubEnv("KUBERNETES_SERVICE_HOST", "10.0.0.1");
    expect((await loadConnection({ kubeconfigPath: await kubeconfig() })).server).toBe("https://h:6443");
  });
});
