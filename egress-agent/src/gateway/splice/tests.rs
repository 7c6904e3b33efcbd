use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::{LocalSet, spawn_local},
};

use super::*;

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (client.unwrap(), accepted.unwrap().0)
}

/// Runs a copy between two pairs; the outer ends go to `test`.
async fn with_copy<F: Future<Output = ()>>(
    idle: Duration,
    test: impl FnOnce(TcpStream, TcpStream) -> F,
) -> (End, u64, u64) {
    let (client, mut downstream) = pair().await;
    let (mut upstream, server) = pair().await;
    let local = LocalSet::new();
    let copy = local.run_until(async move {
        let copy = spawn_local(async move {
            let bytes = Bytes::default();
            let end = copy_both(&mut downstream, &mut upstream, &bytes, idle).await;
            if end != End::Eof {
                drop(downstream.set_zero_linger());
                drop(upstream.set_zero_linger());
            }
            (end, bytes.sent.get(), bytes.received.get())
        });
        test(client, server).await;
        copy.await.unwrap()
    });
    copy.await
}

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_half_close_is_passed_on_and_the_other_way_stays_open() {
    let result = with_copy(
        LONG,
        async |mut client: TcpStream, mut server: TcpStream| {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut asked = String::new();
            server.read_to_string(&mut asked).await.unwrap();
            assert_eq!(asked, "question");
            server.write_all(b"a longer answer").await.unwrap();
            server.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "a longer answer");
        },
    )
    .await;
    assert_eq!(result, (End::Eof, 8, 15));
}

#[tokio::test]
async fn bulk_both_ways_at_once_arrives_unchanged_and_is_counted_exactly() {
    const UP: usize = 9_000_001;
    const DOWN: usize = 7_654_321;
    let pattern = |length: usize| {
        (0..length)
            .map(|n| (n * 7 + n / 251) as u8)
            .collect::<Vec<_>>()
    };
    let result = with_copy(LONG, async |client: TcpStream, server: TcpStream| {
        let side = async |mut stream: TcpStream, send: Vec<u8>, expect: Vec<u8>| {
            let (mut read, mut write) = stream.split();
            let mut received = Vec::new();
            let (sent, read) = tokio::join!(
                async {
                    write.write_all(&send).await?;
                    write.shutdown().await
                },
                read.read_to_end(&mut received)
            );
            sent.unwrap();
            read.unwrap();
            assert!(received == expect);
        };
        tokio::join!(
            side(client, pattern(UP), pattern(DOWN)),
            side(server, pattern(DOWN), pattern(UP))
        );
    })
    .await;
    assert_eq!(result, (End::Eof, UP as u64, DOWN as u64));
    POOL.with_borrow(|pool| assert!(pool.made >= 1 && pool.free.len() == pool.made));
}

#[tokio::test]
async fn a_reset_is_passed_on() {
    let (end, ..) = with_copy(LONG, async |client: TcpStream, mut server: TcpStream| {
        client.set_zero_linger().unwrap();
        drop(client);
        let error = server.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    })
    .await;
    assert_eq!(end, End::Downstream);
}

#[tokio::test]
async fn idle_ends() {
    let idle = Duration::from_millis(50);
    let (end, ..) = with_copy(idle, async |mut client: TcpStream, _server: TcpStream| {
        assert!(client.read(&mut [0; 8]).await.is_err());
    })
    .await;
    assert_eq!(end, End::Idle);
}

#[tokio::test]
async fn a_pipe_that_holds_bytes_never_goes_back() {
    let (mut client, accepted) = pair().await;
    client.write_all(b"left behind").await.unwrap();
    accepted.readable().await.unwrap();
    let mut pipe = Pipe::take().unwrap();
    assert_eq!(pipe.fill(&accepted).unwrap(), 11);
    drop(pipe);
    POOL.with_borrow(|pool| assert!(pool.free.is_empty() && pool.made == 0));
}
