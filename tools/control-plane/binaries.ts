import { execFile } from "node:child_process";
import { access, constants } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { promisify } from "node:util";
import { buildMissing, cachedBinaries } from "./build.ts";

export const kubernetesVersions = ["1.36.3", "1.37.1"] as const;
export type KubernetesVersion = (typeof kubernetesVersions)[number];
export const defaultVersion: KubernetesVersion = "1.36.3";

export const binaryNames = [
  "etcd",
  "kube-apiserver",
  "kube-controller-manager",
  "kube-scheduler",
  "kubectl",
  "kwok",
] as const;
export type BinaryName = (typeof binaryNames)[number];

/** Absolute paths of all binaries and what version each is. */
export type ResolvedBinaries = {
  readonly paths: Readonly<Record<BinaryName, string>>;
  readonly versions: Readonly<Record<BinaryName, string>>;
};

type Found = { readonly path: string; readonly version: string };

/**
 * Finds each binary in the folder `KUBEBUILDER_ASSETS`, then in `PATH`, then in the cache, else builds it into the cache.
 * One that says it is another minor version is passed over; `onProgress` hears what was taken from where, and why not.
 * Rejects with one error that says what to do when something is missing and cannot be built.
 */
export async function resolveBinaries(options: {
  readonly version: KubernetesVersion;
  readonly onProgress?: (line: string) => void;
  readonly env?: NodeJS.ProcessEnv;
}): Promise<ResolvedBinaries> {
  const { version, onProgress = () => {}, env = process.env } = options;
  const installed = await Promise.all(binaryNames.map((name) => findInstalled(name, version, env)));
  for (const line of installed.flatMap(({ notes }) => notes)) onProgress(line);
  const found = new Map<BinaryName, Found>();
  for (const { name, binary } of installed) if (binary !== undefined) found.set(name, binary);
  const missing = () => binaryNames.filter((name) => !found.has(name));
  for (const [name, binary] of await cachedBinaries(version, missing(), env)) found.set(name, binary);
  if (missing().length > 0) {
    for (const [name, binary] of await buildMissing({ version, names: missing(), env, onProgress }))
      found.set(name, binary);
  }
  return {
    paths: pick(found, ({ path }) => path),
    versions: pick(found, ({ version }) => version),
  };
}

function pick(found: ReadonlyMap<BinaryName, Found>, field: (binary: Found) => string): Record<BinaryName, string> {
  return Object.fromEntries(binaryNames.map((name) => [name, field(found.get(name)!)])) as Record<BinaryName, string>;
}

async function findInstalled(name: BinaryName, wanted: KubernetesVersion, env: NodeJS.ProcessEnv) {
  const notes: string[] = [];
  for (const { folder, where } of searchFolders(env)) {
    const path = join(folder, name);
    if (!(await isExecutable(path))) continue;
    const version = await versionOf(name, path);
    const objection = objectionTo(name, version, wanted);
    if (objection === undefined) {
      notes.push(`${name} ${version}: ${path} (${where})`);
      return { name, binary: { path, version: version ?? "unknown" }, notes };
    }
    notes.push(`${name}: not ${path} (${where}), ${objection}`);
  }
  return { name, binary: undefined, notes };
}

/** Folders in order of preference. Relative ones are left out: what they mean depends on who asks. */
export function searchFolders(env: NodeJS.ProcessEnv): { readonly folder: string; readonly where: string }[] {
  const assets = env["KUBEBUILDER_ASSETS"];
  const path = (env["PATH"] ?? "").split(delimiter).filter((folder) => folder.startsWith("/"));
  return [
    ...(assets ? [{ folder: assets, where: "KUBEBUILDER_ASSETS" }] : []),
    ...[...new Set(path)].map((folder) => ({ folder, where: "PATH" })),
  ];
}

/** Why a binary that says it is `version` cannot be used, or undefined when it can. */
export function objectionTo(
  name: BinaryName,
  version: string | undefined,
  wanted: KubernetesVersion,
): string | undefined {
  if (version === undefined) return "which does not tell its version";
  const [major = 0, minor = 0] = version.split(".").map(Number);
  if (name === "etcd") return major === 3 && minor >= 5 ? undefined : `which is ${version}, not 3.5 or newer`;
  if (name === "kwok") return major === 0 && minor >= 8 ? undefined : `which is ${version}, not 0.8 or newer`;
  const line = wanted.split(".").slice(0, 2).join(".");
  return `${major}.${minor}` === line ? undefined : `which is ${version}, not ${line}`;
}

/** The version (without `v`) in what a binary prints about itself, or undefined. */
export function parseVersion(output: string): string | undefined {
  return /version:? v?(\d+\.\d+\.\d+)|Kubernetes v(\d+\.\d+\.\d+)/i
    .exec(output)
    ?.slice(1)
    .find((part) => part !== undefined);
}

async function versionOf(name: BinaryName, path: string): Promise<string | undefined> {
  const args = name === "kubectl" ? ["version", "--client"] : ["--version"];
  const { stdout } = await promisify(execFile)(path, args, { timeout: 20_000 }).catch(() => ({ stdout: "" }));
  return parseVersion(stdout);
}

async function isExecutable(path: string): Promise<boolean> {
  return access(path, constants.X_OK).then(
    () => true,
    () => false,
  );
}
