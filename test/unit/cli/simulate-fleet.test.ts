import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { startChild } from "../../../src/cli/system/children.ts";

test("an API server that does not know the account's rights yet is asked again", async () => {
  const asked = new Set<string | undefined>();
  const askedAgain = Promise.withResolvers<string>();
  const server = createServer((request, response) => {
    if (asked.has(request.url)) askedAgain.resolve("asked again");
    asked.add(request.url);
    response.writeHead(403, { "content-type": "application/json" });
    response.end(JSON.stringify({ kind: "Status", status: "Failure", reason: "Forbidden", message: "not yet" }));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const folder = mkdtempSync(join(tmpdir(), "kllama-fleet-"));
  const kubeconfig = join(folder, "kubeconfig");
  const cluster = { server: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
  const named = { clusters: [{ name: "test", cluster }], users: [{ name: "test", user: { token: "test" } }] };
  const contexts = [{ name: "test", context: { cluster: "test", user: "test" } }];
  writeFileSync(
    kubeconfig,
    JSON.stringify({ apiVersion: "v1", kind: "Config", "current-context": "test", contexts, ...named }),
  );
  const flags = ["--kubeconfig", kubeconfig, "--fleet", "fleets/default.yaml"];
  const child = startChild({ name: "simulate-fleet", flags, logDir: folder });
  onTestFinished(async () => {
    await child.stop();
    server.closeAllConnections();
    server.close();
    rmSync(folder, { recursive: true });
  });
  expect(await Promise.race([askedAgain.promise, child.exited])).toBe("asked again");
});
