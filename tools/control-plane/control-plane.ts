import { generateKeyPairSync } from "node:crypto";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import https from "node:https";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { stringify } from "yaml";
import {
  type ArgumentsInput,
  clientLimits,
  componentArguments,
  componentEnvironment,
  nodeLeaseSeconds,
  type Profile,
} from "./arguments.ts";
import {
  type BinaryName,
  defaultVersion,
  type KubernetesVersion,
  type ResolvedBinaries,
  resolveBinaries,
} from "./binaries.ts";
import {
  type Certificate,
  type CertificateAuthority,
  type CertificateRequest,
  createAuthority,
  loadAuthority,
} from "./certificates.ts";
import { type Component, ComponentError, startComponent } from "./component.ts";
import {
  auditPolicy,
  kwokAccess,
  kwokConfiguration,
  type SchedulerOptions,
  schedulerConfiguration,
} from "./configuration.ts";
import { request, type Target } from "./http.ts";
import { type Kubeconfig, kubeconfigContents, writeKubeconfig } from "./kubeconfig.ts";
import { type ComponentName, componentNames, type Layout, layout, type Ports } from "./layout.ts";
import { freePorts } from "./ports.ts";
import { type Supervisor, startSupervisor } from "./supervisor-client.ts";

/** Time that a component gets between SIGTERM and SIGKILL. */
const graceMs = 3000;
/** kube-apiserver hangs in its shutdown when etcd ends first. */
const stopOrder = [["kwok", "kube-scheduler", "kube-controller-manager"], ["kube-apiserver"], ["etcd"]];
const defaultStages = fileURLToPath(new URL("../../kwok-scenarios/stages", import.meta.url));

export type ControlPlaneOptions = {
  readonly version?: KubernetesVersion;
  readonly profile?: Profile;
  /** From `resolveBinaries`; resolved when absent, which builds them if need be. */
  readonly binaries?: ResolvedBinaries;
  /** What to start beside etcd and kube-apiserver; all when absent. */
  readonly components?: readonly ComponentName[];
  readonly scheduler?: SchedulerOptions;
  /** Stage files, or directories of them, for kwok. */
  readonly kwokStages?: readonly string[];
  /** Kept when given; taken up again when it holds an earlier control plane. A temporary one is removed at the end. */
  readonly dataDir?: string;
  /** Writes an audit log at level Metadata: who did what, without bodies. It costs the API server some time. */
  readonly auditLog?: boolean;
  readonly featureGates?: Readonly<Record<string, boolean>>;
  /** Further command line arguments by component; they win over the launcher's. */
  readonly extraArgs?: Partial<Readonly<Record<ComponentName, readonly string[]>>>;
  /** Gets one line of text for each step that takes time. */
  readonly onProgress?: (line: string) => void;
};

/** For tokens of `serviceAccountKubeconfig`. */
type ServiceAccountOptions = {
  /** Binds the token to a pod of that account: the API server then reports the pod's name and UID with each request. */
  readonly pod?: { readonly name: string; readonly uid: string };
  readonly expirationSeconds?: number;
};

/** A running control plane on loopback. It ends with this process, at the latest. */
export type ControlPlane = {
  readonly version: KubernetesVersion;
  readonly versions: Readonly<Record<BinaryName, string>>;
  readonly binaries: Readonly<Record<BinaryName, string>>;
  readonly profile: Profile;
  /** URL of the API server. */
  readonly server: string;
  readonly ports: Ports;
  readonly dataDir: string;
  /** PEM of the authority that signs every certificate here. */
  readonly authorityPem: string;
  /** Member of `system:masters`. */
  readonly admin: Kubeconfig;
  /** What keeps clients from being measured instead of servers, in words, for reports. */
  readonly limits: string;
  /** Path of the audit log, undefined when it is off. */
  readonly auditLog: string | undefined;
  /** Kubeconfig of a user with a client certificate. It has no rights until RBAC grants some. */
  readonly kubeconfigFor: (user: string, groups?: readonly string[]) => Promise<Kubeconfig>;
  /** Kubeconfig with a token of an existing ServiceAccount. Rejects when there is none of that name. */
  readonly serviceAccountKubeconfig: (
    namespace: string,
    name: string,
    options?: ServiceAccountOptions,
  ) => Promise<Kubeconfig>;
  readonly issueCertificate: (request: CertificateRequest) => Promise<Certificate>;
  /** Starts kube-scheduler when `components` left it out; again with other options when it runs. */
  readonly startScheduler: (options: SchedulerOptions) => Promise<Component>;
  /** What was started so far. */
  readonly components: ReadonlyMap<ComponentName, Component>;
  /** Throws for a component that was never started. */
  readonly component: (name: ComponentName) => Component;
  /** Paths of the components' logs. */
  readonly logs: Readonly<Record<ComponentName, string>>;
  /** Ends everything in order and removes a temporary data directory. May be called twice. */
  readonly stop: () => Promise<void>;
};

/** Starts a control plane and waits until each component is ready. Rejects with an error that shows the failing one's log. */
export async function startControlPlane(options: ControlPlaneOptions = {}): Promise<ControlPlane> {
  const version = options.version ?? defaultVersion;
  const onProgress = options.onProgress;
  const binaries = options.binaries ?? (await resolveBinaries({ version, ...(onProgress ? { onProgress } : {}) }));
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await launch(version, binaries, options);
    } catch (error) {
      const taken = error instanceof ComponentError && error.addressInUse;
      if (!taken || attempt === 3) throw error;
      onProgress?.("A chosen port was taken meanwhile: starting again with others.");
    }
  }
}

/** What the functions below share while one control plane lives. */
type Context = {
  readonly files: Layout;
  readonly ports: Ports;
  readonly authority: CertificateAuthority;
  readonly supervisor: Supervisor;
  readonly input: ArgumentsInput;
  readonly binaries: ResolvedBinaries;
  readonly server: string;
  readonly agent: https.Agent;
  readonly components: Map<ComponentName, Component>;
};

async function launch(
  version: KubernetesVersion,
  binaries: ResolvedBinaries,
  options: ControlPlaneOptions,
): Promise<ControlPlane> {
  const temporary = options.dataDir === undefined;
  const dataDir = temporary ? await mkdtemp(join(tmpdir(), "kllama-")) : resolve(options.dataDir!);
  checkLength(dataDir);
  const supervisor = startSupervisor({ stopOrder, graceMs, removeDir: temporary ? dataDir : null });
  try {
    const files = layout(dataDir);
    const context = await prepare(files, supervisor, binaries, options);
    const admin = await clientKubeconfig(context, "admin", ["system:masters"]);
    await startAll(context, new Set(options.components ?? componentNames), options);
    return controlPlane(version, context, admin);
  } catch (error) {
    await supervisor.end().catch(() => {});
    if (temporary) await rm(dataDir, { recursive: true, force: true });
    throw error;
  }
}

/** The kernel cuts the path of a Unix socket at 107 bytes. */
function checkLength(dataDir: string): void {
  const bytes = Buffer.byteLength(layout(dataDir).etcdSocket);
  if (bytes <= 107) return;
  throw new Error(
    `The data directory ${dataDir} is ${bytes - 107} bytes too long for the socket in it: choose a shorter path.`,
  );
}

async function prepare(
  files: Layout,
  supervisor: Supervisor,
  binaries: ResolvedBinaries,
  options: ControlPlaneOptions,
): Promise<Context> {
  await Promise.all(
    [files.logs, files.pki, files.kubeconfigs].map((path) => mkdir(path, { recursive: true, mode: 0o700 })),
  );
  const [authority, [apiServer = 0, controllerManager = 0, scheduler = 0, kwok = 0]] = await Promise.all([
    writeCredentials(files),
    freePorts(4),
  ]);
  const ports = { apiServer, controllerManager, scheduler, kwok };
  const client = await authority.issue({
    commonName: "launcher",
    organizations: ["system:masters"],
    usages: ["client"],
  });
  const agent = new https.Agent({
    keepAlive: true,
    ca: authority.certificatePem,
    cert: client.certificatePem,
    key: client.keyPem,
  });
  const input: ArgumentsInput = {
    layout: files,
    ports,
    profile: options.profile ?? "scale",
    featureGates: options.featureGates ?? {},
    auditLog: options.auditLog ?? false,
    extraArgs: options.extraArgs ?? {},
  };
  const server = `https://127.0.0.1:${apiServer}`;
  return { files, ports, authority, supervisor, input, binaries, server, agent, components: new Map() };
}

/** Authority, serving certificate and the key that signs ServiceAccount tokens; those that are there already stay. */
async function writeCredentials(files: Layout): Promise<CertificateAuthority> {
  const authority = await readAuthority(files);
  const serving = await authority.issue({
    commonName: "kllama-control-plane",
    dnsNames: [
      "localhost",
      "kubernetes",
      "kubernetes.default",
      "kubernetes.default.svc",
      "kubernetes.default.svc.cluster.local",
    ],
    ipAddresses: ["127.0.0.1", "10.96.0.1"],
    usages: ["server"],
  });
  await Promise.all([
    writePrivate(files.authorityCertificate, authority.certificatePem),
    writePrivate(files.authorityKey, authority.keyPem),
    writePrivate(files.servingCertificate, serving.certificatePem),
    writePrivate(files.servingKey, serving.keyPem),
    writeServiceAccountKeys(files),
  ]);
  return authority;
}

async function readAuthority(files: Layout): Promise<CertificateAuthority> {
  const keyPem = await readIfThere(files.authorityKey);
  const certificatePem = await readIfThere(files.authorityCertificate);
  if (keyPem === undefined || certificatePem === undefined) return createAuthority("kllama-control-plane-ca");
  return loadAuthority({ certificatePem, keyPem });
}

async function writeServiceAccountKeys(files: Layout): Promise<void> {
  if ((await readIfThere(files.serviceAccountPublicKey)) !== undefined) return;
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  await writePrivate(files.serviceAccountKey, privateKey.export({ format: "pem", type: "sec1" }).toString());
  await writePrivate(files.serviceAccountPublicKey, publicKey.export({ format: "pem", type: "spki" }).toString());
}

async function startAll(
  context: Context,
  wanted: ReadonlySet<ComponentName>,
  options: ControlPlaneOptions,
): Promise<void> {
  const { files, input } = context;
  const configured = Promise.all([
    clientKubeconfig(context, "kube-controller-manager", [], "system:kube-controller-manager"),
    clientKubeconfig(context, "kube-scheduler", [], "system:kube-scheduler"),
    clientKubeconfig(context, "kwok", [], "system:kwok"),
    writeSchedulerConfig(files, options.scheduler ?? {}),
    writeKwokConfig(files, options.kwokStages ?? [defaultStages]),
    input.auditLog ? writeFile(files.auditPolicy, stringify(auditPolicy())) : undefined,
  ]);
  await start(context, "etcd");
  await configured;
  await start(context, "kube-apiserver");
  await Promise.all([
    wanted.has("kube-controller-manager") && start(context, "kube-controller-manager"),
    wanted.has("kube-scheduler") && start(context, "kube-scheduler"),
    wanted.has("kwok") && grantKwok(context).then(() => start(context, "kwok")),
  ]);
}

async function start(context: Context, name: ComponentName): Promise<Component> {
  const { files, supervisor, input, binaries } = context;
  const component = await startComponent(
    supervisor,
    {
      name,
      command: binaries.paths[name],
      args: componentArguments(name, input),
      env: componentEnvironment(input.profile),
      cwd: files.dataDir,
      logPath: files.log(name),
    },
    healthOf(name, context),
  );
  context.components.set(name, component);
  return component;
}

function healthOf(name: ComponentName, { files, ports, agent }: Context): { target: Target; path: string } {
  switch (name) {
    case "etcd":
      return { target: { socketPath: files.etcdSocket }, path: "/health" };
    case "kube-apiserver":
      return { target: { port: ports.apiServer, agent }, path: "/readyz" };
    case "kube-controller-manager":
      return { target: { port: ports.controllerManager, agent }, path: "/healthz" };
    case "kube-scheduler":
      return { target: { port: ports.scheduler, agent }, path: "/readyz" };
    case "kwok":
      return { target: { port: ports.kwok }, path: "/readyz" };
  }
}

async function writeSchedulerConfig(files: Layout, options: SchedulerOptions): Promise<void> {
  await writePrivate(
    files.schedulerConfig,
    stringify(schedulerConfiguration(files.kubeconfig("kube-scheduler"), options)),
  );
}

async function writeKwokConfig(files: Layout, sources: readonly string[]): Promise<void> {
  const stages = (await Promise.all(sources.map(readStages))).flat();
  await writePrivate(files.kwokConfig, [stringify(kwokConfiguration()), ...stages].join("---\n"));
}

/** Texts of one stage file, or of each YAML file in a directory. */
async function readStages(source: string): Promise<string[]> {
  if (/\.ya?ml$/.test(source)) return [await readFile(source, "utf8")];
  const names = (await readdir(source)).filter((name) => /\.ya?ml$/.test(name)).sort();
  return Promise.all(names.map((name) => readFile(join(source, name), "utf8")));
}

async function grantKwok(context: Context): Promise<void> {
  for (const { path, object } of kwokAccess()) {
    const response = await request(apiServer(context), "POST", path, object);
    // 409: a data directory that is taken up again has them.
    if (response.status !== 201 && response.status !== 409) {
      throw new Error(`The API server did not accept kwok's rights (${response.status}): ${response.body}`);
    }
  }
}

function apiServer({ ports, agent }: Context): Target {
  return { port: ports.apiServer, agent };
}

async function clientKubeconfig(
  { authority, files, server }: Context,
  name: string,
  groups: readonly string[],
  user = name,
): Promise<Kubeconfig> {
  const certificate = await authority.issue({ commonName: user, organizations: groups, usages: ["client"] });
  return writeKubeconfig(
    files.kubeconfig(name),
    kubeconfigContents(server, authority.certificatePem, user, certificate),
  );
}

async function serviceAccountKubeconfig(
  context: Context,
  namespace: string,
  name: string,
  { pod, expirationSeconds = 30 * 24 * 60 * 60 }: ServiceAccountOptions = {},
): Promise<Kubeconfig> {
  const boundObjectRef = pod === undefined ? undefined : { apiVersion: "v1", kind: "Pod", ...pod };
  const path = `/api/v1/namespaces/${encodeURIComponent(namespace)}/serviceaccounts/${encodeURIComponent(name)}/token`;
  const response = await request(apiServer(context), "POST", path, {
    apiVersion: "authentication.k8s.io/v1",
    kind: "TokenRequest",
    spec: { expirationSeconds, ...(boundObjectRef === undefined ? {} : { boundObjectRef }) },
  });
  if (response.status !== 201) {
    const hint =
      response.status === 404 ? " Create the ServiceAccount (and the pod, if the token is bound to one) first." : "";
    throw new Error(`No token for ServiceAccount ${namespace}/${name} (${response.status}): ${response.body}${hint}`);
  }
  const { status } = JSON.parse(response.body) as { status: { token: string } };
  const user = `system:serviceaccount:${namespace}:${name}`;
  const file = ["serviceaccount", namespace, name, ...(pod === undefined ? [] : [pod.name])].join(".");
  return writeKubeconfig(
    context.files.kubeconfig(file),
    kubeconfigContents(context.server, context.authority.certificatePem, user, { token: status.token }),
  );
}

function controlPlane(version: KubernetesVersion, context: Context, admin: Kubeconfig): ControlPlane {
  const { files, ports, authority, input, binaries, components } = context;
  let stopped: Promise<void> | undefined;
  return {
    version,
    versions: binaries.versions,
    binaries: binaries.paths,
    profile: input.profile,
    server: context.server,
    ports,
    dataDir: files.dataDir,
    authorityPem: authority.certificatePem,
    admin,
    limits: describeLimits(input.profile),
    auditLog: input.auditLog ? files.auditLog : undefined,
    kubeconfigFor: (user, groups = []) => clientKubeconfig(context, `user.${user}`, groups, user),
    serviceAccountKubeconfig: (namespace, name, options) => serviceAccountKubeconfig(context, namespace, name, options),
    issueCertificate: authority.issue,
    startScheduler: async (options) => {
      await components.get("kube-scheduler")?.stop();
      await writeSchedulerConfig(files, options);
      return start(context, "kube-scheduler");
    },
    components,
    component: (name) => {
      const component = components.get(name);
      if (component !== undefined) return component;
      throw new Error(`${name} was not started here; started: ${[...components.keys()].join(", ")}.`);
    },
    logs: Object.fromEntries(componentNames.map((name) => [name, files.log(name)])) as Record<ComponentName, string>,
    stop: () => {
      stopped ??= context.supervisor.end().finally(() => context.agent.destroy());
      return stopped;
    },
  };
}

function describeLimits(profile: Profile): string {
  const { queriesPerSecond, burst } = clientLimits;
  const leases = nodeLeaseSeconds[profile];
  return [
    `kube-controller-manager and kube-scheduler: ${queriesPerSecond} requests/s, burst ${burst}`,
    "kwok: no client limit, 16 workers each for pods, nodes and leases",
    "kube-apiserver: priority and fairness on, default in-flight limits",
    "etcd: no fsync, quota 8 GiB",
    `node leases: ${leases === 0 ? "none" : `${leases} s`}`,
  ].join("; ");
}

async function writePrivate(path: string, text: string): Promise<void> {
  await writeFile(path, text, { mode: 0o600 });
}

async function readIfThere(path: string): Promise<string | undefined> {
  return readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw error;
  });
}
