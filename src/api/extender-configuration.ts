import { bindMarker, memberMarker } from "./names.ts";

/** Files as kube-scheduler sees them; it verifies the server by `caFile` and shows `certFile`. */
export interface ExtenderTls {
  caFile: string;
  certFile: string;
  keyFile: string;
  /** Name in the server's certificate, when it differs from the host in the URL. */
  serverName?: string;
}

/** An entry of `extenders` in `kubescheduler.config.k8s.io/v1` KubeSchedulerConfiguration. */
export interface ExtenderEntry {
  urlPrefix: string;
  filterVerb?: string;
  prioritizeVerb?: string;
  preemptVerb?: string;
  bindVerb?: string;
  weight?: number;
  enableHTTPS: true;
  tlsConfig: ExtenderTls;
  httpTimeout: string;
  nodeCacheCapable: true;
  managedResources: { name: string; ignoredByScheduler: true }[];
}

/**
 * The two entries for one kllama at `url`. One time limit covers all verbs of an entry, and a bind waits for the whole
 * gang while a filter must never hold up the scheduling loop; so bind has its own. Each entry is called only for pods
 * that request its marker resource.
 */
export function extenderEntries({ url, tls }: { url: string; tls: ExtenderTls }): ExtenderEntry[] {
  const server = { urlPrefix: url, enableHTTPS: true, tlsConfig: tls, nodeCacheCapable: true } as const;
  return [
    {
      ...server,
      filterVerb: "filter",
      prioritizeVerb: "prioritize",
      preemptVerb: "preempt",
      weight: 1,
      httpTimeout: "200ms",
      managedResources: [{ name: memberMarker, ignoredByScheduler: true }],
    },
    {
      ...server,
      bindVerb: "bind",
      // Longer than kube-scheduler takes to bring a gang of 2,000 pods to the barrier.
      httpTimeout: "120s",
      managedResources: [{ name: bindMarker, ignoredByScheduler: true }],
    },
  ];
}
