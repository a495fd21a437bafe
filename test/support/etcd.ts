import { Client } from "undici";
import type { ControlPlane } from "../../tools/control-plane/control-plane.ts";
import { layout } from "../../tools/control-plane/layout.ts";

/**
 * Makes etcd forget all history up to now, as the API server does every five minutes. A running API server still has
 * events in memory; restarted, it has none from before.
 */
export async function compactEtcd(plane: ControlPlane): Promise<void> {
  const etcd = new Client("http://localhost", { socketPath: layout(plane.dataDir).etcdSocket });
  const post = async (path: string, body: object): Promise<{ header?: { revision: string } }> => {
    const response = await etcd.request({ method: "POST", path, body: JSON.stringify(body) });
    const text = await response.body.text();
    if (response.statusCode !== 200) throw new Error(`etcd ${path}: HTTP ${response.statusCode}: ${text}`);
    return JSON.parse(text) as { header?: { revision: string } };
  };
  const { header } = await post("/v3/kv/range", { key: Buffer.from("a").toString("base64") });
  await post("/v3/kv/compaction", { revision: header?.revision, physical: true });
  await etcd.close();
}
