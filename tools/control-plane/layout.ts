import { join } from "node:path";

/** The parts of a control plane that run as processes, in the order in which they start. */
export const componentNames = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok"] as const;
export type ComponentName = (typeof componentNames)[number];

/** Loopback ports. etcd has none: it listens on a Unix socket inside the data directory, out of others' reach. */
export type Ports = {
  readonly apiServer: number;
  readonly controllerManager: number;
  readonly scheduler: number;
  readonly kwok: number;
};

/** etcd insists on host and port in its URLs, so its sockets are files with these odd names in its working directory. */
export const etcdClientAddress = "etcd-client.sock:0";
export const etcdPeerAddress = "etcd-peer.sock:0";

/** Files of one control plane below its data directory. */
export function layout(dataDir: string) {
  const inside = (...parts: string[]) => join(dataDir, ...parts);
  return {
    dataDir,
    etcdData: inside("etcd"),
    logs: inside("logs"),
    pki: inside("pki"),
    kubeconfigs: inside("kubeconfigs"),
    etcdSocket: inside(etcdClientAddress),
    authorityCertificate: inside("pki", "ca.crt"),
    authorityKey: inside("pki", "ca.key"),
    servingCertificate: inside("pki", "serving.crt"),
    servingKey: inside("pki", "serving.key"),
    serviceAccountKey: inside("pki", "service-account.key"),
    serviceAccountPublicKey: inside("pki", "service-account.pub"),
    auditPolicy: inside("audit-policy.yaml"),
    auditLog: inside("audit.log"),
    schedulerConfig: inside("kube-scheduler.yaml"),
    kwokConfig: inside("kwok.yaml"),
    kubeconfig: (name: string) => inside("kubeconfigs", `${encodeURIComponent(name)}.yaml`),
    log: (name: ComponentName) => inside("logs", `${name}.log`),
  };
}

export type Layout = ReturnType<typeof layout>;
