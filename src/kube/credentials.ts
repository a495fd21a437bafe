import { readFile } from "node:fs/promises";

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

/** The kubelet rotates a bound token when 20 % of its life (at least 10 minutes) is left; a minute's delay is client-go's. */
const tokenMaxAgeMs = 60_000;

/** The trimmed content of a file that others rotate, read again when older than a minute. */
export function rereadFile(path: string): () => Promise<string> {
  let content = "";
  let readAtMs = Number.NEGATIVE_INFINITY;
  return async () => {
    const nowMs = performance.now();
    if (nowMs - readAtMs > tokenMaxAgeMs) {
      content = (await readText(path, "the bearer token")).trim();
      readAtMs = nowMs;
    }
    return content;
  };
}

/** A file's text, or an error that says what the file was wanted for. */
export async function readText(path: string, purpose: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new Error(`cannot read ${path} (${purpose}): ${why}`, { cause });
  }
}
