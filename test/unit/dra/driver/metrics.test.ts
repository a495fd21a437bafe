import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { Registry } from "prom-client";
import { expect, onTestFinished, test } from "vitest";
import { type Probes, serveMetrics } from "../../../../src/dra/driver/metrics.ts";

const anywhere = { host: "127.0.0.1", port: 0 };
const probes: Probes = { isReady: () => true, failure: async () => undefined };

test("the kubelet is told when it is of no use that the process lives", async () => {
  let failure: string | undefined;
  const server = await serveMetrics(new Registry(), anywhere, { isReady: () => false, failure: async () => failure });
  onTestFinished(() => server.close());
  const ask = async (path: string): Promise<[number, string]> => {
    const answer = await fetch(`${server.url}${path}`, { headers: { connection: "close" } });
    return [answer.status, await answer.text()];
  };
  expect(await ask("/healthz")).toEqual([200, "ok\n"]);
  expect((await ask("/readyz"))[0]).toBe(503);
  failure = "socket x is gone";
  expect(await ask("/healthz")).toEqual([503, "socket x is gone\n"]);
});

test("in a pod anybody may reach them: no more than some connect, who says nothing or never ends is let go, and the rest is answered", async () => {
  const limits = { connections: 8, patienceMs: 1_500 };
  const server = await serveMetrics(new Registry(), anywhere, probes, limits);
  const sockets: Socket[] = [];
  onTestFinished(async () => {
    for (const socket of sockets) socket.destroy();
    await server.close();
  });
  /** @returns when the server has let it go. */
  const open = async (text: string): Promise<{ gone: Promise<unknown> }> => {
    const socket = connect(Number(new URL(server.url).port), "127.0.0.1").on("error", () => undefined);
    sockets.push(socket);
    const gone = once(socket, "close");
    await once(socket, "connect");
    socket.resume().write(text);
    return { gone };
  };
  const halves = [
    "",
    "GET /metrics",
    "GET /metrics HTTP/1.1\r\nHost: n\r\n",
    "POST / HTTP/1.1\r\nHost: n\r\nContent-Length: 9\r\n\r\n",
  ];
  const slow = await Promise.all([...halves, ...halves].map(open));
  await (await open("")).gone;
  await Promise.all(slow.map(({ gone }) => gone));
  expect(await (await fetch(`${server.url}/readyz`, { headers: { connection: "close" } })).text()).toBe("ok\n");
});
