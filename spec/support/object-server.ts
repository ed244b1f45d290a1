import { FakeS3 } from './fake-s3.js'
import { FolderObjects } from './folder-objects.js'

/** A fake server of the objects that the stand-in of NIXL keeps in a folder. */
export class ObjectServer {
  readonly fake: FakeS3

  private constructor(fake: FakeS3) { this.fake = fake }

  static async start(folder: string): Promise<ObjectServer> {
    const fake = new FakeS3()
    fake.bucket.objects = new FolderObjects(folder)
    await fake.up()
    return new ObjectServer(fake)
  }

  /** The configuration of plugin obj there. */
  get section(): Record<string, unknown> {
    const { bucket, endpoint, region, accessKey, secretKey } = this.fake
    return { active: true, bucket: bucket.name, endpoint_override: endpoint, region, access_key: accessKey, secret_key: secretKey }
  }
}
