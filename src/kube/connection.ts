/** How to reach and convince one API server. PEM fields hold the text itself, never a file name. */
export interface Connection {
  /** `https://host:port`, optionally with a path prefix. */
  server: string;
  caPem?: string;
  clientCertificatePem?: string;
  clientKeyPem?: string;
  /** The bearer token to send now; asked for before every request, so it may change. */
  token?: () => Promise<string | undefined>;
  /** TLS server name when it differs from the host in `server`. */
  serverName?: string;
}

/** `kubeconfigPath` absent: `KUBECONFIG`, then the pod's service account, then `~/.kube/config`. */
export interface ConnectionOptions {
  kubeconfigPath?: string;
  context?: string;
}
export declare function loadConnection(options: ConnectionOptions): Promise<Connection>;
