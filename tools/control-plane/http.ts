import http from "node:http";
import https from "node:https";
import { setTimeout as delay } from "node:timers/promises";

/** Where to send a request: an HTTP server on a Unix socket or loopback port, or an HTTPS server with its agent. */
export type Target =
  | { readonly socketPath: string }
  | { readonly port: number }
  | { readonly port: number; readonly agent: https.Agent };

export type Response = { readonly status: number; readonly body: string };

/** One request; a `body` is sent as JSON. Rejects on network errors only. */
export function request(target: Target, method: string, path: string, body?: unknown): Promise<Response> {
  return new Promise((resolve, reject) => {
    const payload = body === undefined ? undefined : JSON.stringify(body);
    const headers = payload === undefined ? {} : { "Content-Type": "application/json" };
    const options = { ...target, host: "127.0.0.1", method, path, headers, timeout: 10_000 };
    const call = "agent" in target ? https.request(options) : http.request({ ...options, agent: false });
    call.once("response", (response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.once("end", () => resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString() }));
      response.once("error", reject);
    });
    call.once("timeout", () => call.destroy(new Error(`${method} ${path}: no answer within 10 s`)));
    call.once("error", reject);
    call.end(payload);
  });
}

/** Asks until the answer is 200 and resolves true, or resolves false when `signal` says to give up. */
export async function untilOk(target: Target, path: string, signal: AbortSignal): Promise<boolean> {
  while (!signal.aborted) {
    const status = await request(target, "GET", path).then(
      (response) => response.status,
      () => 0, // Not listening yet.
    );
    if (status === 200) return true;
    await delay(20, undefined, { signal }).catch(() => {});
  }
  return false;
}
