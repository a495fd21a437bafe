// Starts a bare control plane by hand, or only builds its binaries.
import { readFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { defaultVersion, type KubernetesVersion, kubernetesVersions, resolveBinaries } from "./binaries.ts";
import { logTail } from "./component.ts";
import { type ControlPlane, type ControlPlaneOptions, startControlPlane } from "./control-plane.ts";
import { componentNames } from "./layout.ts";

const help = `Starts etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kwok on loopback, until Ctrl-C.

Usage: node tools/control-plane/main.ts [options]

  --version VERSION    ${kubernetesVersions.join(" or ")} (default ${defaultVersion})
  --profile PROFILE    scale: no node leases, no node-lifecycle controller (default)
                       chaos: leases of 200 s and node lifecycle, as in a real cluster
  --without COMPONENT  leave out kube-controller-manager, kube-scheduler or kwok; may be given several times
  --data-dir DIR       keep everything here, and go on with what is here; default: a temporary folder, removed at the end
  --audit-log          write an audit log at level Metadata
  --build-only         only find or build the binaries, print their paths and exit
  --help               this text

Binaries come from the folder KUBEBUILDER_ASSETS, then PATH, then the cache (KLLAMA_CACHE, default ~/.cache/kllama), and are
else built into the cache with Go 1.26 or newer, once, in about 8 minutes. Progress goes to stderr, results to stdout.
`;

/** A mistake in the command line. */
class UsageError extends Error {}

type Command = { readonly kind: "help" } | { readonly kind: "build" | "start"; readonly options: ControlPlaneOptions };

function parseCommand(args: readonly string[]): Command {
  const { values } = parse(args);
  if (values.help) return { kind: "help" };
  const version = oneOf("--version", values.version ?? defaultVersion, kubernetesVersions);
  const profile = oneOf("--profile", values.profile ?? "scale", ["scale", "chaos"] as const);
  const optional = componentNames.filter((name) => name !== "etcd" && name !== "kube-apiserver");
  const without = (values.without ?? []).map((name) => oneOf("--without", name, optional));
  const dataDir = values["data-dir"];
  return {
    kind: values["build-only"] ? "build" : "start",
    options: {
      version,
      profile,
      components: componentNames.filter((name) => !without.some((left) => left === name)),
      auditLog: values["audit-log"] ?? false,
      ...(dataDir === undefined ? {} : { dataDir }),
    },
  };
}

function parse(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      options: {
        version: { type: "string" },
        profile: { type: "string" },
        without: { type: "string", multiple: true },
        "data-dir": { type: "string" },
        "audit-log": { type: "boolean" },
        "build-only": { type: "boolean" },
        help: { type: "boolean", short: "h" },
      },
    });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

function oneOf<T extends string>(option: string, value: string, allowed: readonly T[]): T {
  const found = allowed.find((name) => name === value);
  if (found === undefined) throw new UsageError(`${option} must be one of ${allowed.join(", ")}, not "${value}".`);
  return found;
}

const onProgress = (line: string) => void process.stderr.write(`${line}\n`);

async function build(version: KubernetesVersion): Promise<void> {
  const { paths, versions } = await resolveBinaries({ version, onProgress });
  for (const [name, path] of Object.entries(paths)) {
    process.stdout.write(`${name} ${versions[name as keyof typeof versions]} ${path}\n`);
  }
}

async function run(options: ControlPlaneOptions): Promise<void> {
  const interrupted = new Promise<undefined>((resolve) => {
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, () => resolve(undefined));
  });
  const starting = startControlPlane({ ...options, onProgress });
  const controlPlane = await Promise.race([starting, interrupted]);
  // Interrupted meanwhile: to exit is enough, since nothing of it outlives this process.
  if (controlPlane === undefined) return;
  const { version, profile, server, admin, limits } = controlPlane;
  onProgress(`Kubernetes ${version}, profile ${profile}, ${server}\n${limits}\nCtrl-C ends it.`);
  process.stdout.write(`export KUBECONFIG=${admin.path}\n`);
  const fault = await Promise.race([interrupted, firstFault(controlPlane)]);
  await controlPlane.stop();
  if (fault !== undefined) throw new Error(fault);
}

/** Resolves when a component ends that nobody asked to end. */
function firstFault({ components }: ControlPlane): Promise<string> {
  return Promise.race(
    [...components.values()].map(async ({ name, exited, logPath }) => {
      const { code, signal } = await exited;
      // The log goes with the data directory, so show its end now.
      return `${name} ended with ${signal ?? `code ${code}`}:\n${logTail(await readFile(logPath, "utf8"))}`;
    }),
  );
}

try {
  const command = parseCommand(process.argv.slice(2));
  if (command.kind === "help") process.stdout.write(help);
  else if (command.kind === "build") await build(command.options.version ?? defaultVersion);
  else await run(command.options);
  process.exit(0);
} catch (error) {
  const usage = error instanceof UsageError;
  process.stderr.write(`${(error as Error).message}${usage ? " See --help." : ""}\n`);
  process.exit(usage ? 2 : 1);
}
