import { lstat, rm } from "node:fs/promises";
import { createConnection } from "node:net";
import { join } from "node:path";
import { driverName } from "../../api/names.ts";
import { namesIn } from "./durable-files.ts";

/** Where the driver's sockets are, and who listens there. Without gRPC, which takes long to load. */

/** Names of `k8s.io/dynamic-resource-allocation/kubeletplugin`, with more in them where several processes may run. */
const draSocket = /^dra(-[0-9A-Za-z-]+)?\.sock$/;
const registrationSocket = /^gpu\.kllama\.ai(-[0-9A-Za-z-]+)?-reg\.sock$/;

/**
 * The sockets of one process, and the lock of those processes of the driver that run at the same time.
 *
 * @param instance a name of its own among them; undefined: there is one at a time
 */
export function socketPaths(kubeletFolder: string, instance: string | undefined) {
  const folder = join(kubeletFolder, "plugins", driverName);
  const registry = join(kubeletFolder, "plugins_registry");
  const own = instance === undefined ? "" : `-${instance}`;
  return {
    folder,
    registry,
    dra: join(folder, `dra${own}.sock`),
    registration: join(registry, `${driverName}${own}-reg.sock`),
    lock: join(folder, "serialize.lock"),
  };
}

/** Paths of the DRA sockets of all processes of this driver that are or were there. */
export async function draSockets(folder: string): Promise<string[]> {
  return (await namesIn(folder)).filter((name) => draSocket.test(name)).map((name) => join(folder, name));
}

/** The same of the sockets by which the kubelet finds them. */
async function registrationSockets(registry: string): Promise<string[]> {
  return (await namesIn(registry)).filter((name) => registrationSocket.test(name)).map((name) => join(registry, name));
}

/** Removes the sockets of this driver that nobody listens on any more: the kubelet would try them for ever. */
export async function removeLeftOver(kubeletFolder: string): Promise<void> {
  const { folder, registry } = socketPaths(kubeletFolder, undefined);
  const ours = [...(await registrationSockets(registry)), ...(await draSockets(folder))];
  // Of those where somebody answers, nothing is removed.
  await Promise.all(ours.map((path) => removeStale(path).catch(() => undefined)));
}

/** A socket file outlives its process when that is killed, and then nobody can bind it. Throws if somebody answers. */
export async function removeStale(path: string): Promise<void> {
  const there = await lstat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT") throw error;
  });
  if (there === undefined) return;
  if (!there.isSocket()) throw new Error(`${path}: is not a socket; remove it`);
  if (await isAnswered(path)) throw new Error(`socket ${path}: another process answers there; stop it first`);
  await rm(path, { force: true });
}

/** Somebody listens on the socket. Rejects when that cannot be told. */
export function isAnswered(path: string): Promise<boolean> {
  return new Promise<boolean>((resolve, reject) => {
    const probe = createConnection(path);
    probe.once("connect", () => {
      probe.destroy();
      resolve(true);
    });
    probe.once("error", (error: NodeJS.ErrnoException) => {
      const gone = error.code === "ECONNREFUSED" || error.code === "ENOENT";
      if (gone) resolve(false);
      else reject(new Error(`socket ${path}: ${error.message}; remove it`));
    });
  });
}
