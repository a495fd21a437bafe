import { type ComponentName, etcdClientAddress, etcdPeerAddress, type Layout, type Ports } from "./layout.ts";

/**
 * `scale`: no node leases, no node-lifecycle controller, no not-ready taint: thousands of nodes without a heartbeat each.
 * `chaos`: leases and node lifecycle as in a real cluster, so that a node that falls silent is noticed.
 */
export type Profile = "scale" | "chaos";

/** Client limits of kube-controller-manager and kube-scheduler, requests/s and burst: high enough never to bind. */
export const clientLimits = { queriesPerSecond: 5000, burst: 10_000 } as const;

/** Seconds that a simulated node's lease lasts, 0 for no leases. kwok renews each quarter of it. */
export const nodeLeaseSeconds: Readonly<Record<Profile, number>> = { scale: 0, chaos: 200 };

/**
 * Collecting garbage less often than Go does by default (100) trades memory for CPU: on two cores the API server spends an
 * eighth of its time on it under load.
 */
const garbageCollection: Readonly<Record<Profile, string>> = { scale: "300", chaos: "100" };

/** Environment of every component. */
export function componentEnvironment(profile: Profile): Readonly<Record<string, string>> {
  return { GOGC: garbageCollection[profile] };
}

export type ArgumentsInput = {
  readonly layout: Layout;
  readonly ports: Ports;
  readonly profile: Profile;
  readonly featureGates: Readonly<Record<string, boolean>>;
  readonly auditLog: boolean;
  /** Appended last, so that they win over ours. */
  readonly extraArgs: Partial<Readonly<Record<ComponentName, readonly string[]>>>;
};

/** Command line of one component, without the command. */
export function componentArguments(name: ComponentName, input: ArgumentsInput): string[] {
  return [...builders[name](input), ...(input.extraArgs[name] ?? [])];
}

const builders: Readonly<Record<ComponentName, (input: ArgumentsInput) => string[]>> = {
  etcd: etcdArguments,
  "kube-apiserver": apiServerArguments,
  "kube-controller-manager": controllerManagerArguments,
  "kube-scheduler": schedulerArguments,
  kwok: kwokArguments,
};

function etcdArguments({ layout }: ArgumentsInput): string[] {
  return [
    "--name=kllama",
    `--data-dir=${layout.etcdData}`,
    `--listen-client-urls=unix://${etcdClientAddress}`,
    `--advertise-client-urls=unix://${etcdClientAddress}`,
    `--listen-peer-urls=unix://${etcdPeerAddress}`,
    `--initial-advertise-peer-urls=unix://${etcdPeerAddress}`,
    `--initial-cluster=kllama=unix://${etcdPeerAddress}`,
    // The data outlives a crash of etcd, but not of the machine: a test bed needs no more.
    "--unsafe-no-fsync",
    `--quota-backend-bytes=${8 * 1024 ** 3}`,
    "--log-level=warn",
  ];
}

function apiServerArguments({ layout, ports, profile, featureGates, auditLog }: ArgumentsInput): string[] {
  return [
    `--etcd-servers=unix://${etcdClientAddress}`,
    "--bind-address=127.0.0.1",
    "--advertise-address=127.0.0.1",
    // The address above is refused as an endpoint of the Service "kubernetes", which nothing here uses.
    "--endpoint-reconciler-type=none",
    `--secure-port=${ports.apiServer}`,
    `--tls-cert-file=${layout.servingCertificate}`,
    `--tls-private-key-file=${layout.servingKey}`,
    `--client-ca-file=${layout.authorityCertificate}`,
    "--authorization-mode=Node,RBAC",
    "--enable-admission-plugins=NodeRestriction",
    // Admission taints each new node as not ready, and only the node-lifecycle controller would take that off again.
    ...(profile === "scale" ? ["--disable-admission-plugins=TaintNodesByCondition"] : []),
    "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
    `--service-account-key-file=${layout.serviceAccountPublicKey}`,
    `--service-account-signing-key-file=${layout.serviceAccountKey}`,
    "--service-cluster-ip-range=10.96.0.0/16",
    "--allow-privileged=true",
    ...(auditLog ? auditArguments(layout) : []),
    ...featureGateArguments(featureGates),
  ];
}

function auditArguments(layout: Layout): string[] {
  return [
    `--audit-policy-file=${layout.auditPolicy}`,
    `--audit-log-path=${layout.auditLog}`,
    // Readers count over the whole run: a rotated file would lose them a part of it.
    "--audit-log-maxsize=100000",
  ];
}

function controllerManagerArguments({ layout, ports, profile, featureGates }: ArgumentsInput): string[] {
  const kubeconfig = layout.kubeconfig("kube-controller-manager");
  return [
    ...servingArguments(layout, ports.controllerManager, kubeconfig),
    `--kubeconfig=${kubeconfig}`,
    "--leader-elect=false",
    "--use-service-account-credentials=true",
    `--service-account-private-key-file=${layout.serviceAccountKey}`,
    `--root-ca-file=${layout.authorityCertificate}`,
    `--kube-api-qps=${clientLimits.queriesPerSecond}`,
    `--kube-api-burst=${clientLimits.burst}`,
    ...(profile === "scale"
      ? ["--controllers=*,-node-lifecycle-controller,-ttl-controller"]
      : ["--node-monitor-period=25s", "--node-monitor-grace-period=200s"]),
    ...featureGateArguments(featureGates),
  ];
}

function schedulerArguments({ layout, ports, featureGates }: ArgumentsInput): string[] {
  return [
    ...servingArguments(layout, ports.scheduler, layout.kubeconfig("kube-scheduler")),
    `--config=${layout.schedulerConfig}`,
    ...featureGateArguments(featureGates),
  ];
}

function kwokArguments({ layout, ports, profile }: ArgumentsInput): string[] {
  return [
    `--kubeconfig=${layout.kubeconfig("kwok")}`,
    `--config=${layout.kwokConfig}`,
    `--server-address=127.0.0.1:${ports.kwok}`,
    `--node-lease-duration-seconds=${nodeLeaseSeconds[profile]}`,
  ];
}

/** Metrics and health on loopback; whoever asks for metrics is checked with the API server. */
function servingArguments(layout: Layout, port: number, kubeconfig: string): string[] {
  return [
    "--bind-address=127.0.0.1",
    `--secure-port=${port}`,
    `--tls-cert-file=${layout.servingCertificate}`,
    `--tls-private-key-file=${layout.servingKey}`,
    `--authentication-kubeconfig=${kubeconfig}`,
    `--authorization-kubeconfig=${kubeconfig}`,
  ];
}

function featureGateArguments(gates: Readonly<Record<string, boolean>>): string[] {
  const list = Object.entries(gates).map(([gate, on]) => `${gate}=${on}`);
  return list.length === 0 ? [] : [`--feature-gates=${list.join(",")}`];
}
