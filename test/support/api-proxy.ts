import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer, request } from "node:https";
import type { AddressInfo } from "node:net";
import { Readable } from "node:stream";
import { buffer } from "node:stream/consumers";
import type { ControlPlane } from "../../tools/control-plane/control-plane.ts";

/** A request as the proxy saw it. */
export interface SeenRequest {
  method: string;
  /** Path with query. */
  path: string;
  atMs: number;
  /** HTTP status that the API server answered with; absent before. */
  status?: number;
  /** A watch that ended because the history it asked for is gone (410). */
  expired?: true;
}

/** What the proxy does with a request beside passing it on. */
interface Disturbance {
  /** Answer it with 429 and this many seconds to wait, instead of asking the API server. */
  refuseFor?(seen: SeenRequest): number | undefined;
  /** Milliseconds before it is passed on. */
  delayMs?(seen: SeenRequest): number;
  /** It is passed on when this has come to pass, whatever became of its sender. */
  until?(seen: SeenRequest): Promise<void> | undefined;
  /** The API server gets it, and the connection is reset instead of an answer. */
  losesAnswer?(seen: SeenRequest): boolean;
}

/** An API server as a bad network, or an overloaded one, shows it to one client. */
export interface ApiProxy {
  readonly server: string;
  /** Every request since the start, in order. */
  readonly requests: readonly SeenRequest[];
  disturb(disturbance: Disturbance): void;
  /** Resets every connection, watches among them. */
  cut(): void;
  close(): Promise<void>;
}

const isWatch = ({ path }: SeenRequest): boolean => path.includes("watch=true");

/** An API server that has begun to answer a watch tells errors as events. */
function noteEnd(seen: SeenRequest, lines: Buffer): void {
  if (lines.includes('"type":"ERROR"') && lines.includes('"code":410')) seen.expired = true;
}

/** Ends TLS with a certificate of the control plane's authority and passes on what it gets, bearer tokens included. */
export async function startApiProxy(plane: ControlPlane): Promise<ApiProxy> {
  const certificate = await plane.issueCertificate({
    commonName: "kllama-api-proxy",
    ipAddresses: ["127.0.0.1"],
    usages: ["server"],
  });
  const requests: SeenRequest[] = [];
  let disturbance: Disturbance = {};

  function pass(
    seen: SeenRequest,
    from: IncomingMessage,
    to: ServerResponse,
    loseAnswer: boolean,
    body: Readable = from,
  ): void {
    const { method = "GET", url = "/", headers } = from;
    const target = {
      host: "127.0.0.1",
      port: plane.ports.apiServer,
      method,
      path: url,
      headers,
      ca: plane.authorityPem,
    };
    const upstream = request(target, (answer) => {
      seen.status = answer.statusCode ?? 502;
      if (loseAnswer) {
        answer.resume();
        to.destroy();
        return;
      }
      to.writeHead(seen.status, answer.headers);
      to.flushHeaders();
      if (isWatch(seen)) answer.on("data", (lines: Buffer) => noteEnd(seen, lines));
      answer.pipe(to);
      answer.on("error", () => to.destroy());
    });
    upstream.on("error", () => to.destroy());
    to.on("close", () => upstream.destroy());
    body.pipe(upstream);
  }

  async function passLater(seen: SeenRequest, from: IncomingMessage, to: ServerResponse, until: Promise<void>) {
    const body = await buffer(from);
    await until;
    // Who sent it may be gone: nobody is told of the end of that connection any more.
    pass(seen, from, to, false, Readable.from([body]));
  }

  function handle(from: IncomingMessage, to: ServerResponse): void {
    const seen: SeenRequest = { method: from.method ?? "GET", path: from.url ?? "/", atMs: performance.now() };
    requests.push(seen);
    const seconds = disturbance.refuseFor?.(seen);
    if (seconds !== undefined) {
      from.resume();
      to.writeHead(429, { "retry-after": String(seconds), "content-type": "text/plain" });
      to.end("Too many requests, please try again later.\n");
      return;
    }
    const until = disturbance.until?.(seen);
    if (until !== undefined) return void passLater(seen, from, to, until);
    const lost = disturbance.losesAnswer?.(seen) ?? false;
    const delayMs = disturbance.delayMs?.(seen) ?? 0;
    if (delayMs === 0) pass(seen, from, to, lost);
    else setTimeout(() => pass(seen, from, to, lost), delayMs);
  }

  const server = createServer({ cert: certificate.certificatePem, key: certificate.keyPem }, handle);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    server: `https://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    disturb: (next) => {
      disturbance = next;
    },
    cut: () => server.closeAllConnections(),
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
