import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { access, mkdir, mkdtemp, readdir, readFile, rename, rm } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import type { BinaryName, KubernetesVersion } from "./binaries.ts";
import { withBuildLock } from "./build-lock.ts";
import { type Supervisor, startSupervisor } from "./supervisor-client.ts";

const progressIntervalMs = 15_000;
const goNeeded = { major: 1, minor: 26 };

/** A Go module of this folder that builds some binaries. */
type Module = { readonly name: string; readonly packages: Partial<Readonly<Record<BinaryName, string>>> };

const etcdModule: Module = { name: "etcd", packages: { etcd: "go.etcd.io/etcd/server/v3" } };

function kubernetesModule(version: KubernetesVersion): Module {
  return {
    name: `kubernetes-${version.split(".").slice(0, 2).join(".")}`,
    packages: {
      "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
      "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
      "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
      kubectl: "k8s.io/kubernetes/cmd/kubectl",
      kwok: "sigs.k8s.io/kwok/cmd/kwok",
    },
  };
}

/** A build that cannot be done or failed; the message says what to do. */
class BuildError extends Error {
  override readonly name = "BuildError";
}

type Built = { readonly path: string; readonly version: string };

/** Those of `names` that the cache holds. */
export async function cachedBinaries(
  version: KubernetesVersion,
  names: readonly BinaryName[],
  env: NodeJS.ProcessEnv,
): Promise<Map<BinaryName, Built>> {
  const found = new Map<BinaryName, Built>();
  for (const name of names) {
    const module = moduleOf(name, version);
    const built = {
      path: join(await cacheEntry(module, version, env), name),
      version: await pinnedVersion(name, module, version),
    };
    if (await exists(built.path)) found.set(name, built);
  }
  return found;
}

/** Builds `names` into the cache, one after the other: what they share is compiled once. */
export async function buildMissing(options: {
  readonly version: KubernetesVersion;
  readonly names: readonly BinaryName[];
  readonly env: NodeJS.ProcessEnv;
  readonly onProgress: (line: string) => void;
}): Promise<Map<BinaryName, Built>> {
  const { version, names, env, onProgress } = options;
  await checkGo(names, version, env);
  onProgress(
    `Building ${names.join(", ")} from pinned Go modules, once: about 8 minutes on two cores when Go has compiled none of it yet.`,
  );
  for (const module of [kubernetesModule(version), etcdModule]) {
    const wanted = names.filter((name) => module.packages[name] !== undefined);
    const entry = await cacheEntry(module, version, env);
    if (wanted.length > 0) await withBuildLock(entry, onProgress, () => buildModule(module, wanted, entry, options));
  }
  return cachedBinaries(version, names, env);
}

async function buildModule(
  module: Module,
  names: readonly BinaryName[],
  entry: string,
  { version, env, onProgress }: Parameters<typeof buildMissing>[0],
): Promise<void> {
  await mkdir(entry, { recursive: true });
  // We hold the lock, so a folder that is here belongs to a build that was killed.
  for (const name of await readdir(entry)) {
    if (name.startsWith("building-")) await rm(join(entry, name), { recursive: true, force: true });
  }
  const work = await mkdtemp(join(entry, "building-"));
  // The compiler runs under a supervisor, so that it ends when we are killed.
  const supervisor = startSupervisor({ stopOrder: [], graceMs: 2000, removeDir: work });
  try {
    for (const name of names) {
      if (await exists(join(entry, name))) continue;
      await buildOne(supervisor, module, name, work, { version, env, onProgress });
      await rename(join(work, name), join(entry, name));
    }
  } finally {
    await supervisor.end();
  }
}

async function buildOne(
  supervisor: Supervisor,
  module: Module,
  name: BinaryName,
  work: string,
  { version, env, onProgress }: Omit<Parameters<typeof buildMissing>[0], "names">,
): Promise<void> {
  const startedAt = performance.now();
  const elapsed = () => `${Math.round((performance.now() - startedAt) / 1000)} s`;
  const logPath = join(work, `${name}.log`);
  const timer = setInterval(() => onProgress(`  ${name}: compiling, ${elapsed()}`), progressIntervalMs);
  try {
    const run = await supervisor.start({
      name,
      command: "go",
      args: ["build", ...buildFlags(module, version), "-o", join(work, name), module.packages[name]!],
      cwd: moduleFolder(module),
      logPath,
      env: { ...definedOnly(env), ...goEnvironment },
    });
    const exit = await run.exited;
    if (exit.code !== 0) {
      const log = (await readFile(logPath, "utf8")).trimEnd().split("\n").slice(-15).join("\n");
      throw new BuildError(`Building ${name} with Go failed (${exit.signal ?? `code ${exit.code}`}):\n${log}`);
    }
  } finally {
    clearInterval(timer);
  }
  onProgress(`  ${name}: built in ${elapsed()}`);
}

/** What differs from the user's own Go settings. The modules' hashes are checked against go.sum, which is never changed. */
const goEnvironment = { CGO_ENABLED: "0", GOFLAGS: "-mod=readonly", GOTOOLCHAIN: "local", GOWORK: "off" };

/** Flags of `go build`: reproducible, small, and telling their version as the official binaries do. */
export function buildFlags(module: { readonly name: string }, version: KubernetesVersion): string[] {
  if (module.name === etcdModule.name) return ["-trimpath", "-ldflags", "-s -w"];
  const [major, minor] = version.split(".");
  const values = { gitVersion: `v${version}`, gitMajor: major, gitMinor: minor };
  const settings = ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"].flatMap((path) =>
    Object.entries(values).map(([name, value]) => `-X ${path}.${name}=${value}`),
  );
  return ["-trimpath", "-ldflags", ["-s -w", ...settings].join(" ")];
}

/** Folder of the cache that holds what `module` builds; it changes with anything that goes into the build. */
async function cacheEntry(module: Module, version: KubernetesVersion, env: NodeJS.ProcessEnv): Promise<string> {
  const hash = createHash("sha256");
  for (const file of ["go.mod", "go.sum"]) hash.update(await readFile(join(moduleFolder(module), file)));
  hash.update(JSON.stringify([buildFlags(module, version), process.platform, process.arch]));
  return join(cacheFolder(env), "control-plane", `${module.name}-${hash.digest("hex").slice(0, 16)}`);
}

/** `$KLLAMA_CACHE`, else `kllama` in the user's cache folder. */
export function cacheFolder(env: NodeJS.ProcessEnv): string {
  const own = env["KLLAMA_CACHE"];
  if (own) return own;
  return join(env["XDG_CACHE_HOME"] || join(env["HOME"] || homedir(), ".cache"), "kllama");
}

/** One error that says everything: what is missing, where it was looked for, what to do. */
async function checkGo(
  names: readonly BinaryName[],
  version: KubernetesVersion,
  env: NodeJS.ProcessEnv,
): Promise<void> {
  const found = await promisify(execFile)("go", ["env", "GOVERSION"], { env: { ...env, GOTOOLCHAIN: "local" } }).then(
    ({ stdout }) => stdout.trim(),
    () => undefined,
  );
  const objection = goObjection(found);
  if (objection !== undefined) throw new BuildError(missingMessage(names, version, objection, env));
}

/** Why this Go cannot build the control plane, or undefined when it can. `found`: as `go env GOVERSION` prints it. */
export function goObjection(found: string | undefined): string | undefined {
  const { major, minor } = goNeeded;
  if (found === undefined) return `there is no Go (PATH has no working \`go\`)`;
  const [, foundMajor = 0, foundMinor = 0] = (/^go(\d+)\.(\d+)/.exec(found) ?? []).map(Number);
  const enough = foundMajor > major || (foundMajor === major && foundMinor >= minor);
  return enough ? undefined : `the Go in PATH is ${found}`;
}

/** The text of the error for somebody who has neither the binaries nor a Go that builds them. */
function missingMessage(
  names: readonly BinaryName[],
  version: KubernetesVersion,
  objection: string,
  env: NodeJS.ProcessEnv,
): string {
  const line = version.split(".").slice(0, 2).join(".");
  return [
    `No control plane: ${names.join(", ")} missing for Kubernetes ${line}, and they cannot be built because ${objection}.`,
    "Do one of these:",
    `  - install Go ${goNeeded.major}.${goNeeded.minor} or newer (https://go.dev/dl) and run this again: they are built once, in about 8 minutes;`,
    `  - put the binaries of Kubernetes ${line}, etcd 3.5 or newer and kwok 0.8 or newer into one folder and set KUBEBUILDER_ASSETS to it.`,
    `Looked in KUBEBUILDER_ASSETS (${env["KUBEBUILDER_ASSETS"] || "not set"}), PATH and ${cacheFolder(env)}.`,
  ].join("\n");
}

function moduleOf(name: BinaryName, version: KubernetesVersion): Module {
  return name === "etcd" ? etcdModule : kubernetesModule(version);
}

function moduleFolder(module: Module): string {
  return fileURLToPath(new URL(module.name, import.meta.url));
}

/** What go.mod pins. Kubernetes' own binaries are the version asked for. */
async function pinnedVersion(name: BinaryName, module: Module, version: KubernetesVersion): Promise<string> {
  const path = { etcd: "go.etcd.io/etcd/server/v3", kwok: "sigs.k8s.io/kwok" }[name as string];
  if (path === undefined) return version;
  const goMod = await readFile(join(moduleFolder(module), "go.mod"), "utf8");
  const line = goMod.split("\n").find((text) => text.trim().startsWith(`${path} v`));
  return line?.trim().split(" ")[1]?.slice(1) ?? "unknown";
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

function definedOnly(env: NodeJS.ProcessEnv): Record<string, string> {
  return Object.fromEntries(Object.entries(env).filter((entry): entry is [string, string] => entry[1] !== undefined));
}
