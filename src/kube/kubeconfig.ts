import type { RequestOptions } from "node:https";
import { dirname, resolve } from "node:path";
// Deep imports: the package's front door loads every generated model, 88 MB of memory against 5 MB for these two.
import {
  type Cluster,
  newClusters,
  newContexts,
  newUsers,
  type User,
} from "@kubernetes/client-node/dist/config_types.js";
import { ExecAuth } from "@kubernetes/client-node/dist/exec_auth.js";
import { parse } from "yaml";
import { type Connection, readText, rereadFile } from "./credentials.ts";
import { defined } from "./defined.ts";

/**
 * The connection of one context of a kubeconfig file. Understands certificates, tokens, token files and credential
 * plugins (`exec`); what it does not understand is refused by name rather than ignored.
 */
export async function kubeconfigConnection(path: string, contextName: string | undefined): Promise<Connection> {
  const fail = (message: string): Error => new Error(`kubeconfig ${path}: ${message}`);
  const { cluster, user, tokenFile } = selectContext(await readText(path, "the kubeconfig"), contextName, fail);
  refuseUnsupported(cluster, user, fail);
  const folder = dirname(resolve(path));
  const pem = async (
    field: string,
    data: string | undefined,
    file: string | undefined,
  ): Promise<string | undefined> => {
    if (data) return decodePem(data, () => fail(`${field}-data is not base64 of a PEM text`));
    return file ? readText(resolve(folder, file), `${field} of kubeconfig ${path}`) : undefined;
  };
  const caPem = await pem("certificate-authority", cluster.caData, cluster.caFile);
  const clientCertificatePem = await pem("client-certificate", user.certData, user.certFile);
  const clientKeyPem = await pem("client-key", user.keyData, user.keyFile);
  if ((clientCertificatePem === undefined) !== (clientKeyPem === undefined)) {
    throw fail(`user ${user.name} has only one of client-certificate and client-key; give both or neither`);
  }
  return {
    server: cluster.server,
    ...defined({ caPem, clientCertificatePem, clientKeyPem, serverName: cluster.tlsServerName }),
    ...(await credentials(user, tokenFile === undefined ? undefined : resolve(folder, tokenFile), fail)),
  };
}

type Fail = (message: string) => Error;

interface Selection {
  cluster: Cluster;
  user: User;
  tokenFile: string | undefined;
}

function selectContext(text: string, contextName: string | undefined, fail: Fail): Selection {
  const document = parseDocument(text, fail);
  const clusters = entries("clusters", () => newClusters(document["clusters"]), fail);
  const users = entries("users", () => newUsers(withoutTokenFiles(document["users"])), fail);
  const contexts = entries("contexts", () => newContexts(document["contexts"]), fail);
  const wanted = contextName ?? document["current-context"];
  if (typeof wanted !== "string" || wanted === "") {
    throw fail(`current-context is missing; name one of the contexts: ${names(contexts)}`);
  }
  const context = contexts.find((entry) => entry.name === wanted);
  if (context === undefined) throw fail(`context ${wanted} does not exist; contexts: ${names(contexts)}`);
  const cluster = clusters.find((entry) => entry.name === context.cluster);
  if (cluster === undefined)
    throw fail(`context ${wanted} names cluster ${context.cluster}; clusters: ${names(clusters)}`);
  const user = users.find((entry) => entry.name === context.user);
  if (user === undefined) throw fail(`context ${wanted} names user ${context.user}; users: ${names(users)}`);
  return { cluster, user, tokenFile: tokenFileOf(document["users"], user.name) };
}

function parseDocument(text: string, fail: Fail): Record<string, unknown> {
  let document: unknown;
  try {
    document = parse(text);
  } catch (cause) {
    throw fail(`not YAML: ${cause instanceof Error ? cause.message : String(cause)}`);
  }
  if (typeof document !== "object" || document === null || Array.isArray(document)) {
    throw fail("not a kubeconfig; a mapping with clusters, users, contexts is expected");
  }
  return document as Record<string, unknown>;
}

function entries<T>(field: string, read: () => T[], fail: Fail): T[] {
  try {
    return read();
  } catch (cause) {
    throw fail(`${field} cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`);
  }
}

/** The library reads such files at once, relative to the working folder and once for ever; ours are read again. */
function withoutTokenFiles(users: unknown): unknown {
  if (!Array.isArray(users)) return users;
  return users.map((entry) =>
    entry?.user?.["token-file"] ? { ...entry, user: { ...entry.user, "token-file": undefined } } : entry,
  );
}

function tokenFileOf(users: unknown, name: string): string | undefined {
  const entry: unknown = Array.isArray(users) ? users.find((user) => user?.name === name)?.user : undefined;
  const fields = (entry ?? {}) as { tokenFile?: unknown; "token-file"?: unknown };
  const file = fields.tokenFile ?? fields["token-file"];
  return typeof file === "string" && file !== "" ? file : undefined;
}

function refuseUnsupported(cluster: Cluster, user: User, fail: Fail): void {
  const inCluster = (field: string, remedy: string): Error =>
    fail(`cluster ${cluster.name}: ${field} is not supported; ${remedy}`);
  const inUser = (field: string, remedy: string): Error =>
    fail(`user ${user.name}: ${field} is not supported; ${remedy}`);
  if (!/^https?:\/\//.test(cluster.server) || !URL.canParse(cluster.server)) {
    throw fail(
      `cluster ${cluster.name}: server ${JSON.stringify(cluster.server)} is not a URL; give https://HOST:PORT`,
    );
  }
  if (cluster.skipTLSVerify) throw inCluster("insecure-skip-tls-verify", "give certificate-authority-data");
  if (cluster.proxyUrl) throw inCluster("proxy-url", "make the server reachable directly");
  if (user.impersonateUser) throw inUser("as (impersonation)", "use a context of the account itself");
  if (user.username) throw inUser("username and password", "use a client certificate or a token");
  if (user.authProvider) throw inUser("auth-provider", "use the credential plugin (exec) that replaced it");
}

/** A token file wins over nothing but a given token; a plugin may also answer with a client certificate. */
async function credentials(user: User, tokenFile: string | undefined, fail: Fail): Promise<Partial<Connection>> {
  const { token } = user;
  if (token) return { token: async () => token };
  if (tokenFile !== undefined) {
    const read = rereadFile(tokenFile);
    await read();
    return { token: read };
  }
  if (!user.exec) return {};
  const plugin = new ExecAuth();
  const ask = async (): Promise<RequestOptions> => {
    const answer: RequestOptions = {};
    try {
      await plugin.applyAuthentication(user, answer);
    } catch (cause) {
      const why = cause instanceof Error ? cause.message.trim() : String(cause);
      throw fail(`user ${user.name}: credential plugin ${JSON.stringify(user.exec.command)} failed: ${why}`);
    }
    return answer;
  };
  const { cert, key } = await ask();
  return {
    ...defined({ clientCertificatePem: cert?.toString(), clientKeyPem: key?.toString() }),
    token: async () => bearer((await ask()).headers),
  };
}

function bearer(headers: RequestOptions["headers"]): string | undefined {
  const value = (headers as Record<string, unknown> | undefined)?.["Authorization"];
  return typeof value === "string" ? value.replace(/^Bearer /, "") : undefined;
}

function decodePem(data: string, error: () => Error): string {
  const text = Buffer.from(data, "base64").toString("utf8");
  if (!text.includes("-----BEGIN ")) throw error();
  return text;
}

function names(list: { name: string }[]): string {
  return list.length === 0 ? "none" : list.map((entry) => entry.name).join(", ");
}
