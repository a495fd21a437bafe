import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { ResolvedBinaries } from "../../../tools/control-plane/binaries.ts";
import {
  type ControlPlane,
  type ControlPlaneOptions,
  startControlPlane,
} from "../../../tools/control-plane/control-plane.ts";
import { freePorts } from "../../../tools/control-plane/ports.ts";
import { extenderEntries } from "../../api/extender-configuration.ts";
import type { KubeClient } from "../../kube/client.ts";
import { installManifests } from "../../kube/install.ts";
import { type Child, startChild } from "./children.ts";

const namespace = "kllama-system";
const schedulerName = "system:kube-scheduler";

/** The planner's address and the certificates of both ends; files, as kube-scheduler and the planner read them. */
export interface ExtenderAccess {
  url: string;
  listen: string;
  serverFiles: { cert: string; key: string };
  clientFiles: { cert: string; key: string };
  authorityFile: string;
  client: { cert: string; key: string; ca: string };
}

/** Everything but kube-scheduler, which has to know the planner's address and certificates first. */
export function startBase(
  version: ControlPlaneOptions["version"],
  binaries: ResolvedBinaries,
  dataDir: string | undefined,
): Promise<ControlPlane> {
  return startControlPlane({
    binaries,
    components: ["etcd", "kube-apiserver", "kube-controller-manager", "kwok"],
    ...(version === undefined ? {} : { version }),
    ...(dataDir === undefined ? {} : { dataDir }),
  });
}

/** Chooses the planner's port and issues the certificates by which planner and kube-scheduler know each other. */
export async function prepareExtender(controlPlane: ControlPlane): Promise<ExtenderAccess> {
  const folder = join(controlPlane.dataDir, "extender");
  const [[port], server, client] = await Promise.all([
    freePorts(1),
    controlPlane.issueCertificate({ commonName: "kllama-planner", ipAddresses: ["127.0.0.1"], usages: ["server"] }),
    controlPlane.issueCertificate({ commonName: schedulerName, usages: ["client"] }),
    mkdir(folder, { recursive: true, mode: 0o700 }),
  ]);
  const write = async (name: string, text: string): Promise<string> => {
    const path = join(folder, name);
    await writeFile(path, text, { mode: 0o600 });
    return path;
  };
  return {
    url: `https://127.0.0.1:${port}`,
    listen: `127.0.0.1:${port}`,
    serverFiles: {
      cert: await write("server.crt", server.certificatePem),
      key: await write("server.key", server.keyPem),
    },
    clientFiles: {
      cert: await write("client.crt", client.certificatePem),
      key: await write("client.key", client.keyPem),
    },
    authorityFile: await write("ca.crt", controlPlane.authorityPem),
    client: { cert: client.certificatePem, key: client.keyPem, ca: controlPlane.authorityPem },
  };
}

export async function startScheduler(controlPlane: ControlPlane, access: ExtenderAccess): Promise<void> {
  const { cert, key } = access.clientFiles;
  const tls = { caFile: access.authorityFile, certFile: cert, keyFile: key };
  await controlPlane.startScheduler({
    extenders: extenderEntries({ url: access.url, tls }),
    percentageOfNodesToScore: 100,
  });
}

/** CRDs, accounts and their rights, policies and device classes, as an administrator installs them. */
export async function install(client: KubeClient): Promise<void> {
  const fileOf = (path: string): string => fileURLToPath(new URL(`../../../${path}`, import.meta.url));
  const files = ["crds", "deploy/rbac.yaml", "deploy/policies.yaml", "deploy/device-classes.yaml"].map(fileOf);
  await installManifests(client, files);
}

/** kllama's own processes by name, each with the kubeconfig of its own account. */
export async function startKllama(
  controlPlane: ControlPlane,
  access: ExtenderAccess,
  fleetFile: string,
  started: (child: Child) => void,
): Promise<Record<"fleet" | "planner" | "operator", Child>> {
  const logDir = join(controlPlane.dataDir, "logs");
  const run = async (command: string, account: string, flags: readonly string[]): Promise<Child> => {
    const { path } = await controlPlane.serviceAccountKubeconfig(namespace, account);
    const child = startChild(command, ["--kubeconfig", path, ...flags], logDir);
    started(child);
    return child;
  };
  const { cert, key } = access.serverFiles;
  const tls = [
    "--tls-cert",
    cert,
    "--tls-key",
    key,
    "--client-ca",
    access.authorityFile,
    "--client-name",
    schedulerName,
  ];
  const [fleet, planner, operator] = await Promise.all([
    run("simulate-fleet", "kllama-simulator", ["--fleet", fleetFile]),
    run("planner", "kllama-planner", ["--listen", access.listen, "--namespace", namespace, ...tls]),
    run("operator", "kllama-operator", []),
  ]);
  return { fleet, planner, operator };
}
