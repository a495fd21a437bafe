import { mkdir, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { stringify } from "yaml";
import type { Certificate } from "./certificates.ts";

/** Contents of a kubeconfig file with one cluster, one user and one context; everything inline, no file references. */
export type KubeconfigContents = {
  readonly apiVersion: "v1";
  readonly kind: "Config";
  readonly "current-context": string;
  readonly clusters: readonly {
    readonly name: string;
    readonly cluster: { readonly server: string; readonly "certificate-authority-data": string };
  }[];
  readonly users: readonly { readonly name: string; readonly user: UserCredentials }[];
  readonly contexts: readonly {
    readonly name: string;
    readonly context: { readonly cluster: string; readonly user: string };
  }[];
};

type UserCredentials =
  | { readonly "client-certificate-data": string; readonly "client-key-data": string }
  | { readonly token: string };

/** A kubeconfig: as a file that only its owner can read, and as an object. */
export type Kubeconfig = { readonly path: string; readonly config: KubeconfigContents };

const clusterName = "kllama";

/** How somebody proves who they are: a client certificate or a bearer token. */
export type Credentials = Certificate | { readonly token: string };

/** Builds the kubeconfig of `user`. `server` is a URL, `authorityPem` the authority that signed its certificate. */
export function kubeconfigContents(
  server: string,
  authorityPem: string,
  user: string,
  credentials: Credentials,
): KubeconfigContents {
  const context = `${user}@${clusterName}`;
  return {
    apiVersion: "v1",
    kind: "Config",
    "current-context": context,
    clusters: [{ name: clusterName, cluster: { server, "certificate-authority-data": base64(authorityPem) } }],
    users: [{ name: user, user: userCredentials(credentials) }],
    contexts: [{ name: context, context: { cluster: clusterName, user } }],
  };
}

/** Writes `config` to `path` and returns both. */
export async function writeKubeconfig(path: string, config: KubeconfigContents): Promise<Kubeconfig> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, stringify(config, { lineWidth: 0 }), { mode: 0o600 });
  return { path, config };
}

function userCredentials(credentials: Credentials): UserCredentials {
  if ("token" in credentials) return { token: credentials.token };
  return {
    "client-certificate-data": base64(credentials.certificatePem),
    "client-key-data": base64(credentials.keyPem),
  };
}

function base64(text: string): string {
  return Buffer.from(text).toString("base64");
}
