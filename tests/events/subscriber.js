// Prints the first messages of a queue as lines of JSON: node subscriber.js URL QUEUE COUNT
const amqp = require('amqplib');

async function main([url, queue, count]) {
  const connection = await amqp.connect(url);
  const channel = await connection.createChannel();
  let left = Number(count);
  await channel.consume(queue, (message) => {
    const { messageId, type, contentType, contentEncoding, headers, timestamp } = message.properties;
    const body = message.content.toString();
    console.log(JSON.stringify({ messageId, type, contentType, contentEncoding, headers, timestamp, body }));
    channel.ack(message);
    left -= 1;
    if (left === 0) channel.close().then(() => connection.close());
  });
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
