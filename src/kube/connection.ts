import { homedir } from "node:os";
import { delimiter, join } from "node:path";
import { env } from "node:process";
import { type Connection, readText, rereadFile } from "./credentials.ts";

export type { Connection } from "./credentials.ts";

/** `kubeconfigPath` absent: the one file in `KUBECONFIG`, then the pod's service account, then `~/.kube/config`. */
export interface ConnectionOptions {
  kubeconfigPath?: string | undefined;
  /** Default: the kubeconfig's `current-context`. */
  context?: string | undefined;
  /** Where the pod's service account is mounted; tests give their own. */
  serviceAccountPath?: string | undefined;
}

const defaultServiceAccountPath = "/var/run/secrets/kubernetes.io/serviceaccount";

/** Finds and reads what is needed to reach the API server. Every error names the file and the field, and what to do. */
export async function loadConnection(options: ConnectionOptions): Promise<Connection> {
  const named = options.kubeconfigPath ?? kubeconfigFromEnvironment();
  if (named === undefined && options.context === undefined && env["KUBERNETES_SERVICE_HOST"]) {
    return serviceAccountConnection(options.serviceAccountPath ?? defaultServiceAccountPath);
  }
  // Imported only here: inside a pod nothing of it is needed.
  const { kubeconfigConnection } = await import("./kubeconfig.ts");
  return kubeconfigConnection(named ?? join(homedir(), ".kube", "config"), options.context);
}

function kubeconfigFromEnvironment(): string | undefined {
  const files = (env["KUBECONFIG"] ?? "").split(delimiter).filter((file) => file !== "");
  if (files.length > 1) {
    throw new Error("KUBECONFIG names several files; name one, or merge them: kubectl config view --flatten");
  }
  return files[0];
}

async function serviceAccountConnection(folder: string): Promise<Connection> {
  const host = env["KUBERNETES_SERVICE_HOST"] ?? "";
  const port = env["KUBERNETES_SERVICE_PORT"] ?? "443";
  const token = rereadFile(join(folder, "token"));
  await token();
  return {
    server: `https://${host.includes(":") ? `[${host}]` : host}:${port}`,
    caPem: await readText(join(folder, "ca.crt"), "the cluster's certificate authority"),
    token,
  };
}
